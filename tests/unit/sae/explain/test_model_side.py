"""The parts that use the language model: reading activations, and the output side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from sae.errors import UserError
from sae.explain.embedding import StaticEmbedder
from sae.explain.output_side import effects, output_side, said_tokens
from sae.explain.records import Explanation
from sae.explain.sae_reader import SaeReader
from sae.lm.bridge import LanguageModel
from sae.lm.row_model import RowModel


@pytest.fixture(scope="module")
def rows(demo_lm: LanguageModel) -> RowModel:
    return RowModel(demo_lm)


@pytest.mark.parametrize("architecture", ["batch_topk", "topk"])
def test_the_reader_gives_the_activations_of_each_context_alone(
    demo_lm: LanguageModel, tiny_sae: Any, architecture: str
) -> None:
    sae = tiny_sae(architecture)
    texts = ("def f(x): return x", "import os", "raise ValueError")
    contexts = [[demo_lm.bos_id, *demo_lm.encode(text)] for text in texts]
    found = SaeReader(demo_lm, sae).activations(5, contexts)
    for tokens, row in zip(contexts, found, strict=True):
        x_PSD = demo_lm.activations(torch.tensor([tokens]), sae.hook)
        expected = sae.activation_of(x_PSD[0], torch.tensor([5]))[:, 0]
        torch.testing.assert_close(torch.tensor(row), expected, rtol=1e-4, atol=1e-4)
    assert any(act > 0 for row in found for act in row)


def test_the_words_of_an_explanation_are_its_tokens(rows: RowModel) -> None:
    lm = rows.lm
    assert said_tokens('fires on " self", "("', rows) == [lm.encode(" self")[0], lm.encode("(")[0]]
    assert said_tokens("the keyword return", rows)[-2:] == [lm.encode(" return")[0], lm.encode("return")[0]]
    assert said_tokens("it is on the token", rows) == []


def test_a_direction_that_writes_a_token_has_an_output_score_near_one(rows: RowModel, tiny_sae: Any) -> None:
    """The latent's decoder row is set to the direction of a token: steering then makes the model say it."""
    lm = rows.lm
    sae = tiny_sae("batch_topk", layer=3)
    token = lm.encode(" self")[0]
    direction_D = lm.unembedding(sae.out_hook)[:, token]
    sae.W_dec_LD[4] = direction_D / direction_D.norm()
    score = output_side(rows, sae, Explanation(4, 'fires on " self"', "rule"), 100.0)
    assert score is not None
    assert score.value > 0.8
    assert score.low is not None
    assert score.low > 0.5
    assert abs(score.details["random_effect"]) < 0.2
    assert score.details["tokens"] == [" self"]
    other = output_side(rows, sae, Explanation(4, 'fires on " import"', "rule"), 100.0)
    assert other is not None
    assert other.value < 0.1
    assert output_side(rows, sae, Explanation(4, "it is on the token", "rule"), 100.0) is None
    assert output_side(rows, sae, Explanation(4, 'fires on " self"', "rule"), 0.0) is None


def test_a_push_of_nothing_has_no_effect(rows: RowModel, tiny_sae: Any) -> None:
    sae = tiny_sae("batch_topk")
    effect_PQ = effects(rows, sae, torch.zeros(2, sae.d_model), [5, 6])
    assert np.abs(effect_PQ).max() < 1e-5


def embedding_folder(folder: Path, **tensors: np.ndarray) -> Path:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1, "dog": 2, "of": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.array([[9, 9], [1, 0], [0, 1], [1, 1]], np.float32)
    save_file({"embeddings": table, **tensors}, folder / "model.safetensors")
    return folder


def test_static_embeddings_are_means_of_rows(tmp_path: Path) -> None:
    model = StaticEmbedder.load(str(embedding_folder(tmp_path / "plain")))
    rows = model.encode(["cat", "cat dog", "cat nothing", "nothing"])
    # An unknown word does not count.
    np.testing.assert_allclose(rows, [[1, 0], [0.5**0.5, 0.5**0.5], [1, 0], [0, 0]], atol=1e-6)
    weighted = StaticEmbedder.load(str(embedding_folder(
        tmp_path / "weighted", weights=np.array([0, 3, 1, 1], np.float32), mapping=np.array([0, 1, 2, 1]))))
    np.testing.assert_allclose(weighted.encode(["cat dog"]), [[3 / 10**0.5, 1 / 10**0.5]], atol=1e-6)
    np.testing.assert_allclose(weighted.encode(["of"]), [[1, 0]], atol=1e-6)


def test_a_folder_without_embeddings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="embedding_model: "):
        StaticEmbedder.load(str(tmp_path))
    (embedding_folder(tmp_path / "broken") / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(UserError, match="embedding_model: "):
        StaticEmbedder.load(str(tmp_path / "broken"))
