"""Every site exists and means the same on models of three families, and edits of it have the documented effect."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.model_info import DEMO_PATH, find_model
from sae.lm.sites import BLOCK_KINDS, check_site, parse_site, precedes, resid_post

FAMILIES = ("llama", "gpt2", "neox", "neox side by side")
SIDE_BY_SIDE = "neox side by side"
LAYER = 1


@pytest.fixture(scope="module")
def models(demo_lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    """Return the embedded llama, and random models of the other families with its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_PATH)
    shape: dict[str, Any] = {"vocab_size": len(tokenizer)}
    gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=32, n_embd=24, n_layer=2, n_head=3, **shape))
    neox = [GPTNeoXForCausalLM(GPTNeoXConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=60, max_position_embeddings=32,
        use_parallel_residual=parallel, **shape)) for parallel in (False, True)]
    made = {"llama": demo_lm}
    generator = torch.Generator().manual_seed(0)
    for name, model in zip(FAMILIES[1:], (gpt2, *neox), strict=True):
        folder = tmp_path_factory.mktemp("model")
        for parameter in model.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made[name] = LanguageModel.load(str(folder), "cpu")
    return made


TOKENS_PS = torch.tensor([[0, 5, 9, 70, 3, 44], [0, 8, 8, 15, 90, 7]])


def site(kind: str) -> str:
    return f"blocks.{LAYER}.{kind}"


def read(lm: LanguageModel, *kinds: str) -> list[Tensor]:
    return lm.activations_at(TOKENS_PS, [site(kind) for kind in kinds])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_add_up_to_the_residual_stream(models: dict[str, LanguageModel], family: str) -> None:
    lm = models[family]
    before, attention, mlp, after = read(lm, "hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    close(before + attention + mlp, after)
    (mlp_in,) = read(lm, "hook_mlp_in")
    if family == SIDE_BY_SIDE:
        close(mlp_in, before)
    else:
        (middle,) = read(lm, "hook_resid_mid")
        close(middle, before + attention)
        close(mlp_in, middle)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mlps_input_is_normalised_and_then_given_its_gain(models: dict[str, LanguageModel], family: str) -> None:
    lm = models[family]
    block: Any = lm.bridge.blocks[LAYER]
    raw, normalised, taken_in = read(lm, "hook_mlp_in", "ln2.hook_normalized", "mlp.hook_in")
    centred = raw if family == "llama" else raw - raw.mean(dim=-1, keepdim=True)
    close(normalised, centred / centred.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-3))
    bias = getattr(block.ln2.original_component, "bias", None)
    close(taken_in, normalised * block.ln2.original_component.weight + (0 if bias is None else bias))


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_and_hidden_activations_become_what_attention_and_mlp_add(
    models: dict[str, LanguageModel], family: str
) -> None:
    lm = models[family]
    block: Any = lm.bridge.blocks[LAYER]
    heads, attention, hidden, mlp = read(lm, "attn.hook_z", "hook_attn_out", "mlp.hook_post", "hook_mlp_out")
    assert hidden.shape[2] != lm.info.d_model
    for x, out, matrix, bias in (
        (heads, attention, block.attn.W_O.flatten(0, 1), getattr(block.attn, "b_O", None)),
        (hidden, mlp, block.mlp.W_out, getattr(block.mlp, "b_out", None)),
    ):
        close(x @ matrix + (0 if bias is None else bias), out)
    # So their decoder rows reach the logits through that matrix.
    for kind, matrix in (("attn.hook_z", block.attn.W_O.flatten(0, 1)), ("mlp.hook_post", block.mlp.W_out)):
        close(lm.unembedding(site(kind)), matrix @ lm.unembedding())
    assert torch.equal(lm.unembedding(resid_post(LAYER)), lm.unembedding())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", BLOCK_KINDS)
def test_an_edit_changes_what_follows_and_nothing_where_it_changes_nothing(
    models: dict[str, LanguageModel], family: str, kind: str
) -> None:
    lm = models[family]
    if family == SIDE_BY_SIDE and kind == "hook_resid_mid":
        for attempt in (lambda: read(lm, kind), lambda: lm.logits(TOKENS_PS, {site(kind): lambda x: x})):
            with pytest.raises(UserError, match="hook_resid_mid") as refused:
                attempt()
            assert refused.value.field == "site"
        return

    def only_at_two(x: Tensor) -> Tensor:
        out = x.clone()
        out[:, 2] += torch.linspace(-1, 1, x[0, 2].numel()).reshape(x[0, 2].shape)
        return out

    plain, edited = lm.logits(TOKENS_PS), lm.logits(TOKENS_PS, {site(kind): only_at_two})
    if kind == "ln2.hook_normalized":  # the bridge recomputes the norm's output there; at other sites it is unchanged
        close(plain[:, :2], edited[:, :2])
    else:
        assert torch.equal(plain[:, :2], edited[:, :2])
    assert (plain[:, 2] - edited[:, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_an_edit_between_attention_and_mlp_changes_the_residual_stream(
    models: dict[str, LanguageModel], family: str
) -> None:
    """Check the whole stream after the site, not only the MLP's input."""
    lm, shift = models[family], 2.0
    after: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        after.append(x)
        return x

    for kind in ("hook_resid_mid", "hook_mlp_in"):
        lm.logits(TOKENS_PS, {site(kind): lambda x: x + shift, site("hook_mlp_out"): torch.zeros_like,
                              resid_post(LAYER): keep})
    (middle,) = read(lm, "hook_resid_mid")
    close(after[0], middle + shift)
    close(after[1], middle)


def test_names_are_checked_before_a_model_is_there() -> None:
    assert parse_site("blocks.12.attn.hook_z") == (12, "attn.hook_z")
    assert check_site(find_model("demo"), "blocks.3.hook_mlp_out") == 3
    for hook in ("blocks.4.hook_mlp_out", "blocks.1.hook_nowhere", "blocks.1.hook_embed", "blocks.x.hook_mlp_out"):
        with pytest.raises(UserError):
            check_site(find_model("demo"), hook)
    assert precedes("ln2.hook_normalized", "hook_mlp_out")
    assert not precedes("hook_resid_post", "hook_resid_pre")
    assert not precedes("hook_mlp_out", "hook_mlp_out")
