"""The interface to language models computes the same as the plain Hugging Face model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sae.errors import UserError
from sae.lm.bridge import LanguageModel, pick_device
from sae.lm.model_info import DEMO_PATH
from sae.lm.sites import resid_post

TEXT = 'class Reader:\n    def read(self, path: str) -> list[str]:\n        """Lines; é 🙂."""\n'


@pytest.fixture(scope="module")
def plain() -> Any:
    return AutoModelForCausalLM.from_pretrained(DEMO_PATH, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture
def tokens_PS(demo_lm: LanguageModel) -> Tensor:
    ids = demo_lm.encode(TEXT)
    return torch.tensor([[demo_lm.bos_id, *ids[:20]], [demo_lm.bos_id, *ids[5:25]]])


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_the_residual_stream_is_the_output_of_the_block(
    demo_lm: LanguageModel, plain: Any, tokens_PS: Tensor, layer: int
) -> None:
    kept = {}
    handle = plain.model.layers[layer].register_forward_hook(
        lambda _module, _inputs, output: kept.update(x=output[0] if isinstance(output, tuple) else output))
    with torch.no_grad():
        plain(tokens_PS)
    handle.remove()
    found = demo_lm.activations(tokens_PS, resid_post(layer))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, kept["x"], rtol=1e-4, atol=1e-4)


def test_logits_are_the_models_also_after_residuals_and_edits(
    demo_lm: LanguageModel, plain: Any, tokens_PS: Tensor
) -> None:
    with torch.no_grad():
        expected = plain(tokens_PS).logits
    demo_lm.activations(tokens_PS, resid_post(1))  # stopping early leaves nothing behind
    assert not torch.allclose(demo_lm.logits(tokens_PS, {resid_post(2): torch.zeros_like}), expected, atol=1e-2)
    torch.testing.assert_close(demo_lm.logits(tokens_PS), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(demo_lm.logits(tokens_PS, {resid_post(2): lambda x: x}), demo_lm.logits(tokens_PS))


def test_reading_in_steps_equals_reading_at_once(demo_lm: LanguageModel, tokens_PS: Tensor) -> None:
    whole = demo_lm.logits(tokens_PS)
    first, cache = demo_lm.step(tokens_PS[:, :7])
    assert cache.length == 7
    parts = [first]
    for position in range(7, tokens_PS.shape[1]):
        logits, cache = demo_lm.step(tokens_PS[:, position : position + 1], cache)
        parts.append(logits)
    assert cache.length == tokens_PS.shape[1]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)


def test_the_unembedding_is_the_direct_effect_on_the_logits(demo_lm: LanguageModel, plain: Any) -> None:
    """Take a small step along a direction with the norm's scale fixed: the logits move by the product."""
    generator = torch.Generator().manual_seed(0)
    x_D, step_D = torch.randn(2, demo_lm.info.d_model, generator=generator)
    scale = (x_D.square().mean() + plain.config.rms_norm_eps).rsqrt()
    with torch.no_grad():
        effect_V = plain.lm_head(plain.model.norm.weight * step_D * scale)
    effect_V -= effect_V.mean()
    found_V = (step_D @ demo_lm.unembedding()) * scale
    torch.testing.assert_close(found_V, effect_V, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(demo_lm.unembedding().mean(dim=1), torch.zeros(demo_lm.info.d_model), rtol=0, atol=1e-6)


def test_the_vocabulary_gives_back_the_bytes_of_any_text(demo_lm: LanguageModel) -> None:
    pieces, special = demo_lm.vocabulary()
    assert len(pieces) == len(special) == demo_lm.info.d_vocab
    assert special[demo_lm.bos_id]
    ids = demo_lm.encode(TEXT)
    assert b"".join(pieces[i] for i in ids) == TEXT.encode()
    assert not any(special[i] for i in ids)
    assert demo_lm.encode_many([TEXT, ""]) == [ids, []]


def test_half_precision_is_asked_for_and_comes_back_in_float32(demo_lm: LanguageModel, tokens_PS: Tensor) -> None:
    exact, rough = (demo_lm.activations(tokens_PS, resid_post(2), autocast=autocast) for autocast in (False, True))
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert float((rough - exact).norm() / exact.norm()) < 0.02


def test_a_model_that_does_not_load_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8, "max_position_embeddings": 8, '
        '"vocab_size": 8}')
    with pytest.raises(UserError, match="does not load") as caught:
        LanguageModel.load(str(tmp_path), "cpu")
    assert caught.value.field == "model"
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(UserError, match="no CUDA"):
            pick_device("cuda:1")


def test_a_model_that_shares_weights_has_hooks_of_its_own(demo_lm: LanguageModel) -> None:
    other = demo_lm.share_weights()
    tokens_PS = torch.arange(1, 9)[None]
    hook = "blocks.1.hook_resid_post"
    assert torch.equal(other.activations(tokens_PS, hook), demo_lm.activations(tokens_PS, hook))
    mine, theirs = (next(lm.bridge.parameters()).data_ptr() for lm in (demo_lm, other))
    assert mine == theirs
    plain = other.logits(tokens_PS)
    inside: list[torch.Tensor] = []

    def edit(x_PSD: torch.Tensor) -> torch.Tensor:
        inside.append(other.logits(tokens_PS))  # while the first model's hooks are on
        return torch.zeros_like(x_PSD)

    assert not torch.equal(demo_lm.logits(tokens_PS, {hook: edit}), plain)
    assert torch.equal(inside[0], plain)
