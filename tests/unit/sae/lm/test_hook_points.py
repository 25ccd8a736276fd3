"""Queries, keys, values, single heads, the attention's input and the embedding, against plain Hugging Face modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.conformance.tiny_models import HEADS as N_HEADS
from sae.lm.conformance.tiny_models import WIDTH, write_tiny_model
from sae.lm.fast_reader import reader
from sae.lm.hook_points import head_edit
from sae.lm.slow_row_model import open_row_model

TOKENS_PS = torch.tensor([[0, 5, 9, 70, 3, 44], [0, 8, 8, 15, 90, 7]])
D_HEAD = WIDTH // N_HEADS
FUSED, GROUPED = "GPT2LMHeadModel", "LlamaForCausalLM"  # one matrix for q, k and v; fewer keys than queries


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    made = {}
    for name in (FUSED, GROUPED):
        folder: Path = tmp_path_factory.mktemp(name) / "model"
        write_tiny_model(name, folder)
        made[name] = LanguageModel.load(str(folder), "cpu")
    return made


def site(kind: str) -> str:
    return f"blocks.1.{kind}"


def plain_outputs(lm: LanguageModel, name: str) -> Tensor:
    """What a module of block 1 of the plain model gives out, [P, S, w]."""
    model, kept = lm.plain(share=False), list[Any]()
    layers = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    layers[1].get_submodule(name).register_forward_hook(lambda _m, _a, out: kept.append(out))
    with torch.no_grad():
        model(input_ids=TOKENS_PS)
    return kept[0]


def test_queries_keys_and_values_are_what_their_matrices_give(models: dict[str, LanguageModel]) -> None:
    hooks = [site(f"attn.hook_{name}") for name in "qkv"]
    lm = models[GROUPED]
    for found, name in zip(lm.activations_at(TOKENS_PS, hooks), "qkv", strict=True):
        torch.testing.assert_close(found, plain_outputs(lm, f"self_attn.{name}_proj"))
    assert [x.shape[-1] for x in lm.activations_at(TOKENS_PS, hooks)] == [WIDTH, 2 * D_HEAD, 2 * D_HEAD]
    lm = models[FUSED]
    torch.testing.assert_close(torch.cat(lm.activations_at(TOKENS_PS, hooks), dim=2), plain_outputs(lm, "attn.c_attn"))


@pytest.mark.parametrize("name", [FUSED, GROUPED])
def test_the_attentions_input_is_the_norm_without_gain(models: dict[str, LanguageModel], name: str) -> None:
    lm = models[name]
    before, normal = lm.activations_at(TOKENS_PS, [site("hook_resid_pre"), site("ln1.hook_normalized")])
    centred = before - before.mean(dim=-1, keepdim=True) if name == FUSED else before
    rms = (centred.square().mean(dim=-1, keepdim=True) + (1e-5 if name == FUSED else 1e-6)).sqrt()
    torch.testing.assert_close(normal, centred / rms, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [FUSED, GROUPED])
def test_a_head_is_a_run_of_coordinates_on_every_way_of_reading(models: dict[str, LanguageModel], name: str) -> None:
    lm = models[name]
    hooks = [site("attn.hook_z:h3"), site("attn.hook_k:h1"), site("attn.hook_z"), site("attn.hook_k"), "hook_embed"]
    found = lm.activations_at(TOKENS_PS, hooks)
    assert torch.equal(found[0], found[2][..., 3 * D_HEAD :])
    assert torch.equal(found[1], found[3][..., D_HEAD : 2 * D_HEAD])
    for one, other in zip(reader(lm, hooks)(TOKENS_PS), found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", [FUSED, GROUPED])
@pytest.mark.parametrize("kind", ["attn.hook_q", "attn.hook_v:h0", "attn.hook_z:h2", "ln1.hook_normalized"])
def test_edits_are_the_same_by_hook_and_token_by_token(
    models: dict[str, LanguageModel], name: str, kind: str
) -> None:
    lm = models[name]
    width = lm.activations(TOKENS_PS[:1], site(kind)).shape[-1]
    push = torch.linspace(-1, 1, width)

    def edit(x: Tensor) -> Tensor:
        return x + push.view(x.shape[2:])

    expected = lm.logits(TOKENS_PS[:1], {site(kind): edit})[0]
    rows = open_row_model(lm)
    torch.testing.assert_close(rows.read(TOKENS_PS[0].tolist(), {site(kind): edit}, whole=True), expected,
                               rtol=1e-3, atol=1e-4)
    assert not torch.allclose(expected, lm.logits(TOKENS_PS[:1])[0], atol=1e-3)


def test_zero_ablation_of_one_head_leaves_the_others_alone(models: dict[str, LanguageModel]) -> None:
    lm = models[GROUPED]
    kept: list[Tensor] = []
    head, whole = site("attn.hook_z:h1"), site("attn.hook_z")
    lm.logits(TOKENS_PS, {head: torch.zeros_like, whole: lambda x: kept.append(x) or x})
    seen, before = kept[0].flatten(2), lm.activations(TOKENS_PS, whole)
    expected = before.clone()
    expected[..., D_HEAD : 2 * D_HEAD] = 0
    # The edits of one place run in the order in which they are given.
    assert torch.equal(seen, expected)


def test_what_a_model_does_not_have_is_refused_by_name(models: dict[str, LanguageModel]) -> None:
    lm = models[GROUPED]
    for hook in (site("attn.hook_k:h2"), site("attn.hook_z:h4")):
        with pytest.raises(UserError, match=r"has [24] heads, 0 to [13]; there is no head [24]"):
            lm.activations(TOKENS_PS, hook)


@pytest.mark.parametrize("name", [FUSED, GROUPED])
def test_the_directions_of_a_head_have_the_logits_of_its_part_of_the_output_matrix(
    models: dict[str, LanguageModel], name: str
) -> None:
    lm = models[name]
    whole = lm.unembedding(site("attn.hook_z"))
    assert torch.equal(lm.unembedding(site("attn.hook_z:h2")), whole[2 * D_HEAD : 3 * D_HEAD])
    torch.testing.assert_close(lm.unembedding("hook_embed"), lm.unembedding())
    for kind in ("ln1.hook_normalized", "attn.hook_q", "attn.hook_k:h0", "attn.hook_v"):
        with pytest.raises(UserError, match="no logits of their own, because attention mixes them"):
            lm.unembedding(site(kind))
    for kind in ("hook_mlp_in", "ln2.hook_normalized", "mlp.hook_in"):
        with pytest.raises(UserError, match="no logits of their own, because they enter the MLP alone"):
            lm.unembedding(site(kind))


def test_the_edit_of_a_head_takes_heads_apart_or_in_one_row() -> None:
    double = head_edit(lambda x: 2 * x, lambda width: slice(2, 4))
    x = torch.arange(1.0, 9).view(1, 2, 4)
    expected = torch.tensor([1.0, 2, 6, 8, 5, 6, 14, 16])
    assert torch.equal(double(x).flatten(), expected)
    assert torch.equal(double(x.view(1, 2, 2, 2)), expected.view(1, 2, 2, 2))
