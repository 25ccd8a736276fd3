"""Contexts without BOS: in the corpus, in a run from training to the index, in a document's view and in inspection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.library.documents import document_view
from app.pages.explore.l0_views import bos_words
from app.pages.provenance import first_position
from sae.autoencoder.artefact import Autoencoder
from sae.data.corpus import Corpus, prepare
from sae.errors import UserError
from sae.formats.readers.registry import load
from sae.lm.bridge import LanguageModel
from sae.lm.row_model import RowModel
from sae.runs import compare
from sae.runs.create import start
from sae.runs.execute import EXIT_OK, execute
from sae.steering.inspection import inspect_text
from sae.store.build import Build
from sae.workspace.paths import Workspace
from tests.unit.sae.data.test_corpus import LM

TEXTS = [f"def f{i}(self):\n    return {i} + self.value\n" * 12 for i in range(60)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with an SAE `demo/bare` that was trained, measured and indexed on contexts without BOS."""
    root = tmp_path_factory.mktemp("bare")
    text = root / "text.txt"
    text.write_text("\n<|endoftext|>\n".join(TEXTS))
    workspace = Workspace(root / "home")
    folder = start("train", {
        "name": "bare", "bos": False, "text": str(text), "context_length": 32, "n_latents": 128, "k": 8,
        "tokens": 8192, "batch_tokens": 512, "buffer_tokens": 4096, "eval_tokens": 1000, "ce_tokens": 256,
        "index_tokens": 2000, "top_contexts": 4, "device": "cpu"}, workspace)
    assert execute(folder, workspace) == EXIT_OK, folder.status()
    return workspace


def corpus_of(build: Build, workspace: Workspace) -> Corpus:
    return Corpus.open(workspace.corpus(build.meta["corpus"]))


@pytest.fixture(scope="module")
def build(made: Workspace) -> Build:
    return Build.open(made.build("demo/bare", made.build_ids("demo/bare")[-1]))


def test_every_position_of_a_context_is_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n<|endoftext|>\n".join(TEXTS))
    arguments: Any = (str(tmp_path / "t.txt"), "text", "train", LM, 16, Workspace(tmp_path / "home"))
    corpus, usual = prepare(*arguments, bos=False), prepare(*arguments)
    assert (corpus.has_bos, usual.has_bos) == (False, True)
    assert corpus.id != usual.id
    for number in range(len(TEXTS)):
        whole = [np.concatenate([c.tokens[row, int(c.has_bos) : c.length[row]] for row in np.flatnonzero(
            c.doc == number)]).tolist() for c in (corpus, usual)]
        expected = LM.encode_many([TEXTS[number]])[0]
        assert all(len(expected) - len(ids) <= 2 for ids in whole)
        assert all(ids == expected[: len(ids)] or LM.decode(ids) in TEXTS[number] + "\n" for ids in whole)
    # The first position is never counted.
    assert corpus.n_tokens == int(corpus.length.sum()) - corpus.n_contexts
    assert (corpus.offset[corpus.doc == 0] == np.arange((corpus.doc == 0).sum()) * 16 + 1).all()


def test_a_run_reads_contexts_without_bos_and_says_so(made: Workspace, build: Build) -> None:
    sae = Autoencoder.load(made.sae("demo/bare"))
    assert sae.config["bos"] == {"prepended": False, "trained_on": True}
    assert not sae.reads_bos
    assert 0 < sae.config["metrics"]["fvu"] < 1
    assert build.meta["bos_token"] is None
    assert build.meta["bos_rule"] == "no BOS; the first token of every context is not among the counted tokens"
    assert first_position(build.meta) == "first token"
    assert bos_words(build.meta["bos_l0"], 8, "first token").startswith("First token of a context, without BOS")
    corpus = corpus_of(build, made)
    assert not (corpus.tokens[np.arange(32) < corpus.length[:, None]] == 0).any()
    read = sum(corpus.length[context] - 1 for context in range(corpus.n_contexts))
    assert build.meta["tokens"] <= read


def test_contexts_of_the_index_are_where_their_documents_have_them(made: Workspace, build: Build) -> None:
    corpus = corpus_of(build, made)
    latent = max((found for n in range(128) if (found := build.latent(n)) and not found.dead),
                 key=lambda found: found.density or 0)
    for context in build.contexts(latent.latent)[:4]:
        view = document_view(build, corpus, latent, context.ctx, first=0)
        ids = np.concatenate([corpus.tokens[row, : corpus.length[row]] for row in np.flatnonzero(
            corpus.doc == corpus.doc[context.ctx])])
        assert view.n == len(ids)
        assert view.place is not None
        assert ids[view.place.token] == context.tokens[context.peak]


def test_an_sae_without_bos_reads_a_text_without_it(made: Workspace, demo_lm: LanguageModel, tiny_sae: Any) -> None:
    model, sae = RowModel(demo_lm), Autoencoder.load(made.sae("demo/bare"))
    ids = demo_lm.encode(TEXTS[3])[:40]
    (alone,), _ = inspect_text(model, ids, [sae], [False] * len(ids), top=4)
    x_SD = demo_lm.activations(torch.tensor([ids]), sae.hook)[0]
    dense_SL = sae.activation_of(x_SD, torch.arange(sae.n_latents))
    assert alone.l0 == (dense_SL > 0).sum(1).tolist()
    assert [f.max for f in alone.ranked] == pytest.approx(
        sorted((dense_SL[1:].max(0).values[dense_SL[1:].max(0).values > 0]).tolist(), reverse=True), rel=1e-3)

    # Next to an SAE that reads BOS, the same numbers stand one position later.
    usual, with_bos = tiny_sae(), [demo_lm.bos_id, *ids]
    special = [i == 0 for i in range(len(with_bos))]
    (first, second), _ = inspect_text(model, with_bos, [usual, sae], special, top=4)
    assert second.l0 == [0, *alone.l0]
    assert second.position == [p + 1 for p in alone.position]
    assert second.ranked == [type(f)(f.latent, f.max, f.sum, f.peak + 1, f.n) for f in alone.ranked]
    assert first == inspect_text(model, with_bos, [usual], special, top=4)[0][0]


def test_saes_with_and_without_bos_are_not_compared(made: Workspace) -> None:
    config = Autoencoder.load(made.sae("demo/bare")).config
    with pytest.raises(UserError, match="the other one reads contexts without it"):
        compare._check([config, {**config, "bos": {"prepended": True}}])


def test_a_file_keeps_whether_it_was_trained_with_bos(made: Workspace) -> None:
    assert load(made.sae("demo/bare")).config["bos"]["prepended"] is False
    assert load(made.sae("demo/bare"), bos="yes").reads_bos
