"""The map from directions to logits has the gain, the centring and the norms of each family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.conformance.tiny_models import write_tiny_model

Get = Callable[[str], LanguageModel]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Get:
    made: dict[str, LanguageModel] = {}

    def get(architecture: str) -> LanguageModel:
        if architecture not in made:
            folder: Path = tmp_path_factory.mktemp("tiny") / architecture
            write_tiny_model(architecture, folder)
            made[architecture] = LanguageModel.load(str(folder), "cpu")
        return made[architecture]

    return get


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def centred(x_DV: Tensor) -> Tensor:
    return x_DV - x_DV.mean(dim=1, keepdim=True)


def end_of(plain: Any) -> tuple[Any, Tensor]:
    """The final norm and the unembedding [D, V] of a plain model."""
    base = plain.base_model
    names = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
    holder = getattr(base, "decoder", base)
    return next(getattr(holder, name) for name in names if hasattr(holder, name)), plain.lm_head.weight.T.float()


@pytest.mark.parametrize("architecture", [
    "GPT2LMHeadModel", "OPTForCausalLM", "PhiForCausalLM", "FalconForCausalLM", "BloomForCausalLM", "GPTJForCausalLM"])
def test_a_layer_norm_takes_the_mean_of_a_direction_away(models: Get, architecture: str) -> None:
    lm = models(architecture)
    norm, W_U_DV = end_of(lm.plain())
    assert isinstance(norm, torch.nn.LayerNorm)
    lists = lm.unembedding()
    assert float((torch.ones(lm.info.d_model) @ lists).abs().max()) < 1e-4
    mapped = norm.weight[:, None] * W_U_DV
    close(lists, centred(mapped - mapped.mean(dim=0)))


@pytest.mark.parametrize(("architecture", "offset"), [
    ("LlamaForCausalLM", 0), ("Gemma2ForCausalLM", 1), ("Gemma3ForCausalLM", 1), ("Gemma4ForCausalLM", 0),
    ("Qwen3_5ForCausalLM", 1), ("Qwen3NextForCausalLM", 1), ("Qwen3ForCausalLM", 0)])
def test_the_gain_is_that_of_the_module(models: Get, architecture: str, offset: int) -> None:
    lm = models(architecture)
    norm, W_U_DV = end_of(lm.plain())
    close(lm.unembedding(), centred((offset + norm.weight)[:, None] * W_U_DV))


def test_nemotrons_layer_norm_has_both(models: Get) -> None:
    lm = models("NemotronForCausalLM")
    norm, W_U_DV = end_of(lm.plain())
    mapped = (1 + norm.weight)[:, None] * W_U_DV
    close(lm.unembedding(), centred(mapped - mapped.mean(dim=0)))


def test_a_norm_without_weight_has_gain_1(models: Get) -> None:
    lm = models("OlmoForCausalLM")
    _, W_U_DV = end_of(lm.plain())
    close(lm.unembedding(), centred(W_U_DV - W_U_DV.mean(dim=0)))


@pytest.mark.parametrize(("architecture", "offset", "after_attention", "after_mlp"), [
    ("Gemma2ForCausalLM", 1, "post_attention_layernorm", "post_feedforward_layernorm"),
    ("Gemma3ForCausalLM", 1, "post_attention_layernorm", "post_feedforward_layernorm"),
    ("Olmo2ForCausalLM", 0, "post_attention_layernorm", "post_feedforward_layernorm"),
    ("Olmo3ForCausalLM", 0, "post_attention_layernorm", "post_feedforward_layernorm")])
def test_norms_after_attention_and_mlp_are_passed(
    models: Get, architecture: str, offset: int, after_attention: str, after_mlp: str
) -> None:
    lm = models(architecture)
    block = lm.plain().model.layers[1]
    for kind, matrix, norm in (("attn.hook_z", block.self_attn.o_proj, after_attention),
                               ("mlp.hook_post", block.mlp.down_proj, after_mlp)):
        expected = (matrix.weight.T * (offset + getattr(block, norm).weight)) @ lm.unembedding()
        close(lm.unembedding(f"blocks.1.{kind}"), expected)


def test_multipliers_of_the_residual_stream_and_the_logits_are_in_the_values(tmp_path: Path) -> None:
    from sae.lm.conformance.tiny_models import tiny_config

    config = tiny_config("GraniteForCausalLM")
    config.residual_multiplier, config.logits_scaling = 0.25, 4.0
    write_tiny_model("GraniteForCausalLM", tmp_path, config)
    lm = LanguageModel.load(str(tmp_path), "cpu")
    norm, W_U_DV = end_of(lm.plain())
    lists = centred(norm.weight[:, None] * W_U_DV) / 4
    close(lm.unembedding(), lists)
    (added,) = lm.activations_at(torch.tensor([[0, 9, 30, 7]]), ["blocks.1.hook_mlp_out"])
    before, after = lm.activations_at(torch.tensor([[0, 9, 30, 7]]), ["blocks.1.hook_resid_mid",
                                                                      "blocks.1.hook_resid_post"])
    factor = float((after - before).norm() / added.norm())  # whether the site is before or after the multiplier
    close(lm.unembedding("blocks.1.hook_mlp_out"), factor * lists)
    close(lm.unembedding("blocks.2.attn.hook_z"), lm.plain().model.layers[2].self_attn.o_proj.weight.T @ lists / 4)


@pytest.mark.parametrize("architecture", ["MixtralForCausalLM", "Qwen3MoeForCausalLM", "GptOssForCausalLM"])
def test_experts_have_no_matrix_in_common(models: Get, architecture: str) -> None:
    with pytest.raises(UserError, match="does not reach the residual stream by a matrix") as error:
        models(architecture).unembedding("blocks.1.mlp.hook_post")
    assert error.value.field == "site"


@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "Gemma3ForCausalLM", "GraniteForCausalLM"])
def test_a_stream_that_is_set_to_0_between_attention_and_mlp_is_0(models: Get, architecture: str) -> None:
    lm = models(architecture)
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    tokens = torch.tensor([[0, 9, 30, 7]])
    lm.logits(tokens, {"blocks.1.hook_resid_mid": torch.zeros_like, "blocks.1.hook_mlp_in": keep})
    assert float(kept[0].abs().max()) == 0
    lm.logits(tokens, {"blocks.1.hook_resid_mid": lambda x: x, "blocks.1.hook_mlp_in": keep})
    (as_is,) = lm.activations_at(tokens, ["blocks.1.hook_resid_mid"])
    assert torch.equal(kept[1], as_is)


def test_opts_sites_around_the_mlp_are_by_text(models: Get) -> None:
    """OPT lays the texts end to end there."""
    lm = models("OPTForCausalLM")
    tokens = torch.tensor([[0, 9, 30, 7], [0, 5, 5, 8]])
    seen: list[torch.Size] = []

    def zero_second_text(x: Tensor) -> Tensor:
        seen.append(x.shape)
        out = x.clone()
        out[1] = 0
        return out

    for kind in ("ln2.hook_normalized", "mlp.hook_in", "mlp.hook_post"):
        hook = f"blocks.1.{kind}"
        assert lm.activations_at(tokens, [hook])[0].shape[:2] == (2, 4)
        edited = lm.logits(tokens, {hook: zero_second_text})
        assert seen[-1][:2] == (2, 4)
        assert torch.equal(edited[0], lm.logits(tokens, {hook: lambda x: x})[0])
        assert not torch.allclose(edited[1], lm.logits(tokens)[1], atol=1e-3)


def test_edits_at_several_sites_of_a_block_follow_each_other(models: Get) -> None:
    """In whatever order they are named: each sees what the ones before it left."""
    lm = models("LlamaForCausalLM")
    tokens = torch.tensor([[0, 9, 30, 7]])
    edits: dict[str, Callable[[Tensor], Tensor]] = {
        "hook_attn_out": lambda x: x + 1, "hook_resid_mid": lambda x: x * 2, "hook_mlp_in": lambda x: x + 3,
        "ln2.hook_normalized": lambda x: x * 3, "hook_mlp_out": lambda x: x - 2, "hook_resid_post": lambda x: x * 5}
    pre, attention = lm.activations_at(tokens, ["blocks.1.hook_resid_pre", "blocks.1.hook_attn_out"])
    block = lm.plain().model.layers[1]
    middle = (pre + attention + 1) * 2
    taken = middle + 3
    norm = block.post_attention_layernorm
    normal = taken * torch.rsqrt(taken.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    expected = (middle + block.mlp(3 * normal * norm.weight) - 2) * 5
    for names in (list(edits), list(edits)[::-1]):
        kept: list[Tensor] = []

        def keep(x: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(x)
            return x

        lm.logits(tokens, {**{f"blocks.1.{name}": edits[name] for name in names}, "blocks.2.hook_resid_pre": keep})
        close(kept[0], expected.detach())
