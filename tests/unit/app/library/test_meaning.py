"""Search by meaning, with embeddings of a few words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from app.db.engine import SessionFactory
from app.library import labels, meaning
from sae.explain import results
from sae.explain.embedding_files import SETTING
from sae.explain.records import Explanation
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH

WORDS = {"[UNK]": [0.0, 0.0], "cat": [1.0, 0.0], "kitten": [0.9, 0.1], "law": [0.0, 1.0]}


@pytest.fixture
def embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "words"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"embeddings": np.array(list(WORDS.values()), np.float32)}, str(folder / "model.safetensors"))
    monkeypatch.setenv(SETTING, str(folder))
    meaning._embedder.cache_clear()
    meaning._embedded.clear()
    yield folder
    meaning._embedder.cache_clear()
    meaning._embedded.clear()


def test_the_nearest_come_first_and_changes_are_seen(embeddings: Path, sessions: SessionFactory) -> None:
    with sessions() as db:
        assert meaning.near(db, BATCH, "kitten") == []
        labels.save(db, BATCH, 3, "ada", text="the cat")
        labels.save(db, BATCH, 4, "ada", text="the law")
        assert [(latent, said) for latent, said, _ in meaning.near(db, BATCH, "kitten")] == [(3, "the cat")]
        labels.save(db, BATCH, 4, "ada", text="kitten")
        found = meaning.near(db, BATCH, "kitten")
        assert [latent for latent, _, _ in found] == [4, 3]
        assert found[0][2] == pytest.approx(1.0)
        assert meaning.near(db, BATCH, "unknown words") == meaning.near(db, BATCH, " ") == []


def test_without_embeddings_nothing_is_found(
    embeddings: Path, sessions: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sessions() as db:
        labels.save(db, BATCH, 3, "ada", text="the cat")
        (embeddings / "tokenizer.json").write_text("{")
        assert meaning.near(db, BATCH, "kitten") == []  # damaged
        meaning._embedder.cache_clear()
        monkeypatch.setenv(SETTING, str(embeddings / "none"))
        assert meaning.near(db, BATCH, "kitten") == []


def test_the_search_page_says_why(embeddings: Path, browsable: TestClient, workspace: Workspace) -> None:
    results.append(workspace.sae(BATCH), [Explanation(5, "a cat", "model", run="r")])
    browsable.app.state.catalog.sync_if_changed()  # type: ignore[attr-defined]
    [found] = browsable.get("/search.json", params={"q": "kitten", "sae": BATCH}).json()["latents"]
    assert (found["latent"], found["reasons"][0]["kind"], found["reasons"][0]["value"]) == (5, "meaning", "a cat")
    literal = browsable.get("/search.json", params={"q": "a cat", "sae": BATCH}).json()["latents"][0]
    kinds = {reason["kind"] for reason in literal["reasons"]}
    assert "explanation" in kinds
    assert "meaning" not in kinds  # the same text is no second reason
    assert "similar meaning" in browsable.get("/search", params={"q": "kitten", "sae": BATCH}).text
