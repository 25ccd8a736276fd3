"""Tests of the source document around a context: complete, in order, coloured where the build has activations."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from app.library import documents
from app.library.documents import document_view, open_corpus
from sae.errors import UserError
from sae.index.build import build
from sae.specs.registry import IndexSettings
from sae.store.build import Build
from sae.workspace.paths import Workspace
from tests.toys import ToyModel, toy_corpus, toy_sae


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    path = tmp_path_factory.mktemp("b") / "b.duckdb"
    build(ToyModel(), toy_sae(), toy_corpus(30), IndexSettings(index_tokens=10_000, top_contexts=5), path,  # type: ignore[arg-type]
          provenance={"run": "r", "command": "c"})
    return Build.open(path)


def test_a_document_is_the_tokens_of_its_contexts_in_order(built: Build) -> None:
    corpus = toy_corpus(30)
    latent = built.latent(7)
    assert latent is not None
    for context in built.contexts(7):
        view = document_view(built, corpus, latent, context.ctx)
        rows = [row for row in range(30) if corpus.doc[row] == corpus.doc[context.ctx]]
        expected = [f"t{token}" for row in rows for token in corpus.tokens[row, 1 : corpus.length[row]]]
        assert [piece.text for piece in view.pieces] == expected
        assert (view.first, view.last, view.n) == (0, len(expected), len(expected))
        assert view.name == context.document
        place = int(corpus.offset[context.ctx]) + (context.start or 0) + context.peak - 1
        begin = sum(int(corpus.length[row]) - 1 for row in rows if row < context.ctx) + (context.start or 0) - 1
        place = begin + context.peak
        assert view.pieces[place].css
        assert "peak" in view.pieces[place].css
        assert [i for i, piece in enumerate(view.pieces) if "peak" in piece.css] == [place]
        assert view.place is not None
        assert (view.place.token, view.place.context.act) == (place, context.act)
        elsewhere = [other.context.ctx for other in view.others]
        assert len(elsewhere) == view.known - 1
        assert context.ctx not in elsewhere
        assert view.pieces[place].title.startswith(f"{context.act:.4f}")
        silent = [i for i, act in enumerate(context.acts) if act == 0 and (context.start or 0) + i > 0]
        for i in silent:
            assert not view.pieces[begin + i].css


def test_a_long_document_comes_in_windows(built: Build) -> None:
    corpus = toy_corpus(30)
    latent = built.latent(7)
    assert latent is not None
    whole = document_view(built, corpus, latent, 4)
    with patch.object(documents, "WINDOW", 10):
        parts, first = [], 0
        while first < whole.n:
            part = document_view(built, corpus, latent, 4, first)
            parts += [piece.text for piece in part.pieces]
            first = part.last
        assert parts == [piece.text for piece in whole.pieces]
        around = document_view(built, corpus, latent, 4)
        assert around.first <= int(corpus.length[3]) - 1 < around.last
        assert document_view(built, corpus, latent, 4, 10**9).pieces


def test_a_missing_context_or_text_is_an_error(built: Build, tmp_path: Path) -> None:
    latent = built.latent(7)
    assert latent is not None
    with pytest.raises(UserError, match="no context 99"):
        document_view(built, toy_corpus(30), latent, 99)
    with pytest.raises(UserError, match="no longer in the workspace"):
        open_corpus(built, Workspace(tmp_path))
    assert np.all(toy_corpus(30).length > 1)
