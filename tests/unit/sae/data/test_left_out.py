"""Tokens of enormous norm, and tokens by id, are left out of training, metrics and index, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch
from torch import Tensor

from sae.data.activations import ActivationStream, forward_rows
from sae.data.left_out import NOTHING, LeftOut
from sae.data.median_norm import find_left_out
from sae.errors import UserError
from sae.evaluation.metrics import counted_rows
from sae.index.build import build
from sae.index.encoders import EncoderPool
from sae.index.forward import joined
from sae.lm.bridge import LanguageModel
from sae.lm.sites import resid_post
from sae.specs.registry import IndexSettings, parse_spec
from tests.toys import ToyModel, toy_corpus, toy_sae

SINK = 7  # a token whose activations are enormous
HOOK = resid_post(1)


class Sinking(ToyModel):
    def activations(self, tokens_PS: Tensor, hook: str, *, autocast: bool = False) -> Tensor:
        x_PSD = super().activations(tokens_PS, hook)
        return torch.where((tokens_PS == SINK)[:, :, None], x_PSD * 1024, x_PSD)


@pytest.fixture
def lm() -> LanguageModel:
    return Sinking()  # type: ignore[return-value]


CORPUS = toy_corpus(40)


def test_the_rule_is_a_multiple_of_the_median_norm(lm: LanguageModel) -> None:
    left_out = find_left_out(lm, CORPUS, HOOK, 10, "3, 5")
    rows_ND = torch.cat(list(forward_rows(lm, CORPUS, np.arange(40), [HOOK], include_bos=False)))
    assert left_out.max_norm == pytest.approx(10 * float(rows_ND.norm(dim=1).median()), rel=0.2)
    assert left_out.tokens == (3, 5)
    assert LeftOut.recorded(left_out.record()) == left_out
    assert find_left_out(lm, CORPUS, HOOK, 0, "") == NOTHING
    assert NOTHING.record() is None
    with pytest.raises(UserError, match=r"^skip_tokens: 29 is no token of toy"):
        find_left_out(lm, CORPUS, HOOK, 0, "29")
    for bad, field in (({"skip_norm": 1.5}, "skip_norm"), ({"skip_tokens": "the"}, "skip_tokens")):
        with pytest.raises(UserError) as caught:
            parse_spec("train", bad)
        assert caught.value.field == field


def test_the_stream_has_other_tokens_in_the_places_of_those_left_out(lm: LanguageModel) -> None:
    left_out = find_left_out(lm, CORPUS, HOOK, 10, "")

    def stream(left_out: LeftOut) -> ActivationStream:
        return ActivationStream(lm, CORPUS, HOOK, 8, 32, n_steps=12, dtype=torch.float32, left_out=left_out)

    plain, kept = (list(stream(one).batches()) for one in (NOTHING, left_out))
    assert sum(float(x_BD.norm(dim=1).max()) > left_out.max_norm for x_BD in plain) > 1
    assert all(float(x_BD.norm(dim=1).max()) < left_out.max_norm for x_BD in kept)
    for x_BD, y_BD in zip(plain, kept, strict=True):  # every other token stays where it was
        same_B = x_BD.norm(dim=1) < left_out.max_norm
        assert torch.equal(x_BD[same_B], y_BD[same_B])
    resumed = list(stream(left_out).batches(5))
    assert all(torch.equal(a, b) for a, b in zip(kept[5:], resumed, strict=True))


def test_rows_are_replaced_by_the_last_one_that_stays() -> None:
    rows_NW, out_N = torch.arange(6.0)[:, None], torch.tensor([True, True, False, True, False, True])
    assert NOTHING.replaced(rows_NW, out_N)[:, 0].tolist() == [2, 2, 2, 2, 4, 4]
    assert torch.equal(NOTHING.replaced(rows_NW, torch.ones(6, dtype=torch.bool)), rows_NW)


@pytest.mark.parametrize("tokens", ["", f"{SINK}"])
def test_metrics_count_the_other_tokens_alone(lm: LanguageModel, tokens: str) -> None:
    left_out = find_left_out(lm, CORPUS, HOOK, 0 if tokens else 10, tokens)
    contexts = np.arange(40)
    rows_ND = torch.cat(list(counted_rows(lm, CORPUS, contexts, [HOOK], left_out=left_out)))
    everything = torch.cat(list(counted_rows(lm, CORPUS, contexts, [HOOK])))
    real = np.arange(16) < CORPUS.length[:, None]
    counted = CORPUS.tokens[real & (np.arange(16) > 0)]
    assert torch.equal(rows_ND, everything[torch.from_numpy(counted != SINK)])


@pytest.mark.parametrize("kind", ["norm", "id"])
def test_the_index_has_neither_the_tokens_nor_their_firings(lm: LanguageModel, tmp_path: Path, kind: str) -> None:
    sae = toy_sae()
    settings = {"norm": {"skip_norm": 10.0}, "id": {"skip_tokens": str(SINK)}}[kind]
    path = tmp_path / "build.duckdb"
    build(lm, sae, CORPUS, IndexSettings(index_tokens=100_000, **settings), path, provenance={})  # type: ignore[arg-type]
    with duckdb.connect(str(path), read_only=True) as db:
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        n_tokens = sum(n for (n,) in db.execute("SELECT n_tokens FROM latent").fetchall())
        seen = {token for (token,) in db.execute("SELECT token FROM l0_token").fetchall()}
    one = joined([part.tokens for part in EncoderPool(lm, sae, CORPUS).read(np.arange(40))])
    counted_B = (one.position_B > 0) & (one.token_B != SINK)
    assert int(meta["tokens"]) == int(counted_B.sum())
    assert n_tokens == int(one.l0_B[counted_B].sum())
    assert SINK not in seen
    assert "left out: " in meta["bos_rule"]
