"""Kept activations are those that the language model gives, survive kills, and damage is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae.data import kept as kept_module
from sae.data.activations import ActivationStream
from sae.data.corpus import Corpus
from sae.data.kept import KeptActivations, keep, plan_kept
from sae.data.left_out import LeftOut
from sae.errors import DamagedFile, Interrupted, UserError
from tests.toys import ToyModel, toy_corpus

HOOKS = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


class TwoSites(ToyModel):
    """A model with another activation at its second block."""

    def activations(self, tokens_PS: Tensor, hook: str, *, autocast: bool = False) -> Tensor:
        x_PSD = super().activations(tokens_PS, hook, autocast=autocast)
        return x_PSD[..., :4] * 2 if hook == HOOKS[1] else x_PSD


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "CHUNK_TOKENS", 100)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return toy_corpus(60)


def kept_in(folder: Path, corpus: Corpus, n_tokens: int = 10**9, **values: Any) -> KeptActivations:
    lm: Any = TwoSites()
    keep(lm, corpus, plan_kept(lm, corpus, HOOKS, n_tokens), folder, **values)
    return KeptActivations(folder, corpus)


def batches(
    corpus: Corpus, kept: KeptActivations | None, hook: str, n: int = 12, start: int = 0, **values: Any
) -> Tensor:
    stream = ActivationStream(
        TwoSites(), corpus, hook, 16, 64, kept=kept, seed=3, **values)  # type: ignore[arg-type]
    found = stream.batches(start)
    return torch.stack([next(found) for _ in range(n)])


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("include_bos", [True, False])
def test_training_reads_the_same_batches_without_the_language_model(
    tmp_path: Path, corpus: Corpus, hook: str, include_bos: bool
) -> None:
    kept = kept_in(tmp_path, corpus)
    left_out = LeftOut(max_norm=6.0, tokens=(5,), multiple=2.0)
    for options in ({"include_bos": include_bos}, {"include_bos": include_bos, "left_out": left_out}):
        assert torch.equal(batches(corpus, kept, hook, **options), batches(corpus, None, hook, **options))
    one, two = (batches(corpus, kept, hook, n, start) for n, start in ((12, 0), (5, 7)))
    assert torch.equal(one[7:], two), "it resumes at any step"
    silent: Any = TwoSites()
    stream = ActivationStream(silent, corpus, hook, 16, 64, kept=kept)
    next(stream.batches())
    assert silent.tokens_read == 0


def test_a_part_of_the_text_is_as_large_as_it_was_asked_for(tmp_path: Path, corpus: Corpus) -> None:
    kept = kept_in(tmp_path, corpus, n_tokens=150)
    plan = kept.plan
    assert 150 <= plan.tokens < 150 + corpus.context_length
    assert plan.widths == (6, 4)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.bin")) == plan.n_bytes == plan.tokens * 10 * 2
    assert plan.n_chunks > 1
    read = batches(corpus, kept, HOOKS[0], n=30)  # several epochs of the same contexts
    everything = torch.cat(list(kept.rows(kept.contexts, HOOKS[:1], include_bos=True)))
    assert set(map(tuple, read.reshape(-1, 6).tolist())) <= set(map(tuple, everything.tolist()))


def test_killed_in_the_middle_it_goes_on_with_the_next_chunk(tmp_path: Path, corpus: Corpus) -> None:
    def stop(tokens: int) -> None:
        if tokens > 250:
            raise Interrupted

    with pytest.raises(Interrupted):
        kept_in(tmp_path / "a", corpus, update=stop)
    with pytest.raises(UserError, match="not there or not finished"):
        KeptActivations(tmp_path / "a", corpus)
    first = tmp_path / "a" / "chunk-00000-0.bin"
    before = first.stat().st_mtime_ns
    done: list[int] = []
    kept = kept_in(tmp_path / "a", corpus, update=done.append)
    assert first.stat().st_mtime_ns == before
    assert done[-1] == kept.plan.tokens
    kept_in(tmp_path / "b", corpus)
    for path in sorted((tmp_path / "b").iterdir()):
        assert (tmp_path / "a" / path.name).read_bytes() == path.read_bytes()


def test_a_damaged_chunk_is_named_and_can_be_made_again(tmp_path: Path, corpus: Corpus) -> None:
    kept_in(tmp_path, corpus)
    path = tmp_path / "chunk-00001-0.bin"
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"chunk-00001-0\.bin .* is damaged"):
        batches(corpus, KeptActivations(tmp_path, corpus), HOOKS[0], n=40)
    batches(corpus, KeptActivations(tmp_path, corpus), HOOKS[1], n=40)  # the other site is whole
    path.unlink()
    kept = kept_in(tmp_path, corpus)
    assert len(batches(corpus, kept, HOOKS[0], n=40)) == 40
    note = tmp_path / "chunk-00000.json"
    note.write_text(json.dumps({"rows": 1}))
    with pytest.raises(DamagedFile):
        batches(corpus, KeptActivations(tmp_path, corpus), HOOKS[0], n=40)


def test_what_does_not_fit_together_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    kept = kept_in(tmp_path, corpus)
    with pytest.raises(UserError, match=r"has no blocks\.2\.hook_resid_post"):
        kept.widths(["blocks.2.hook_resid_post"])
    lm: Any = TwoSites()
    with pytest.raises(UserError, match="holds activations of other sites") as error:
        keep(lm, corpus, plan_kept(lm, corpus, HOOKS[:1], 10**9), tmp_path)
    assert error.value.field == "name"
    with pytest.raises(UserError, match="another text"):
        KeptActivations(tmp_path, replace(corpus, path=Path("another")))
    assert np.array_equal(np.sort(kept.contexts), np.flatnonzero(~corpus.held_out))
