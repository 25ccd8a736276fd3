"""The embedding scorer, and the folders of static word embeddings that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from sae.errors import UserError
from sae.explain.embedding import StaticEmbedder, embedding
from sae.explain.examples import Examples
from tests.unit.sae.explain.cats import EXPLANATION, examples, score_of


class Letters:
    """Embeds a text by its letters."""

    name = "letters"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.array([[text.count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts], np.float32)
        unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


def test_embedding_is_the_auc_of_the_cosine() -> None:
    found = score_of(embedding(Letters(), EXPLANATION, examples()))
    rows = Letters().encode(["text about: the word cat", *(one.excerpt.text() for one in (
        *examples().positives, *examples().negatives))])
    cosine = rows[1:] @ rows[0]
    wins = [(p > n) + (p == n) / 2 for p in cosine[:6] for n in cosine[6:]]
    assert found.value == pytest.approx(sum(wins) / len(wins), abs=1e-9)
    assert set(found.details["sorts"]) == {"random", "similar", "near"}


def write_embedder(folder: Path, **tensors: NDArray[np.generic]) -> None:
    """Write the embeddings of an unknown word, "cat" and "dog"."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1, "dog": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(tensors, str(folder / "model.safetensors"))


def test_too_few_examples_have_no_score() -> None:
    assert embedding(Letters(), EXPLANATION, examples(2)) is None
    assert embedding(Letters(), EXPLANATION, Examples(examples().positives, [], True)) is None


def test_a_text_is_the_mean_of_its_known_words(tmp_path: Path) -> None:
    write_embedder(tmp_path, embeddings=np.array([[9, 9], [1, 0], [0, 1]], np.float16))
    embedder = StaticEmbedder.load(str(tmp_path))
    assert embedder.name == tmp_path.name
    found = embedder.encode(["cat", "cat dog", "cat bird", "bird"])
    half = 0.5**0.5
    np.testing.assert_allclose(found, [[1, 0], [half, half], [1, 0], [0, 0]], atol=1e-6)


def test_tokens_may_share_rows_and_have_weights(tmp_path: Path) -> None:
    write_embedder(tmp_path, embeddings=np.array([[1, 0], [0, 1]], np.float32), mapping=np.array([0, 1, 0]),
                   weights=np.array([1, 3, 4], np.float64))
    found = StaticEmbedder.load(str(tmp_path)).encode(["cat dog"])
    np.testing.assert_allclose(found, [[0.8, 0.6]], atol=1e-6)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_a_folder_without_embeddings_is_refused(tmp_path: Path, missing: str) -> None:
    write_embedder(tmp_path, embeddings=np.eye(3, dtype=np.float32))
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match="is not a folder with static embeddings") as refused:
        StaticEmbedder.load(str(tmp_path))
    assert refused.value.field == "embedding_model"
