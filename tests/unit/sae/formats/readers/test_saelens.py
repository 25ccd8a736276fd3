"""SAELens: what a file states is applied, asked for, or refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae.errors import UserError
from sae.formats.readers.registry import load, read
from tests.unit.sae.formats.readers.tensors import D, L
from tests.unit.sae.formats.saes import edited


@pytest.mark.parametrize(("case", "changes", "reason"), [
    ("saelens/topk", {"architecture": "abstopk"}, "its activations can be negative"),
    ("saelens/topk", {"architecture": "matching_pursuit"}, "encodes in a loop over residuals"),
    ("saelens/topk", {"architecture": "temporal"}, "attention over positions"),
    ("saelens/topk", {"metadata": {"hook_name": "blocks.8.hook_resid_pre", "hook_head_index": 3}}, "alone have heads"),
    ("saelens/topk", {"metadata": {"hook_name": "blocks.8.attn.hook_z", "hook_head_index": -1}}, "reads head -1"),
    ("saelens/transcoder", {"normalize_activations": "layer_norm"}, "normalised token by token"),
    ("saelens/transcoder", {"apply_b_dec_to_input": True}, "which SAELens itself refuses"),
    ("saelens/standard", {"normalize_activations": "covariance_whitening"}, "is not next to it"),
    ("saelens/standard", {"d_sae": 41}, "d_sae is 41"),
    ("saelens/topk", {"k": 0}, "k is 0, but should be from 1 to 40")])
def test_what_no_artefact_can_hold_is_refused_with_the_reason(
    tmp_path: Path, case: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError) as raised:
        read(edited(tmp_path, case, **changes))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("site", ["q", "k", "v", "z"])
def test_a_single_head_becomes_part_of_the_site(tmp_path: Path, site: str) -> None:
    named = {"hook_name": f"blocks.8.attn.hook_{site}", "hook_head_index": 3}
    folder = edited(tmp_path, "saelens/topk", metadata=named)
    assert read(folder).hook == f"blocks.8.attn.hook_{site}:h3"


def test_a_scale_that_the_file_does_not_hold_is_asked_for(tmp_path: Path) -> None:
    folder = edited(tmp_path, "saelens/standard", normalize_activations="expected_average_only_in")
    assert "input_scale" in read(folder).asks
    given = read(folder, {"input_scale": 0.5})
    assert "input_scale" not in given.asks
    assert given.weights.input_scale == 0.5


def test_centred_writing_weights_are_a_normalisation(tmp_path: Path) -> None:
    folder = edited(tmp_path, "saelens/standard",
                    metadata={"model_from_pretrained_kwargs": {"center_writing_weights": True}})
    sae, x_BD = load(folder), torch.randn(5, D)
    assert sae.config["normalize"] == "centre"
    # The model never sees the mean; the SAE neither sees nor changes it.
    torch.testing.assert_close(sae.reconstruct(x_BD + 7), sae.reconstruct(x_BD) + 7)


def test_a_batchtopk_saved_as_jumprelu_is_one_again(tmp_path: Path) -> None:
    folder = edited(tmp_path, "saelens/jumprelu", metadata={
        "training_architecture": "batchtopk", "training_architecture_details": {"k": 9}})
    assert read(folder).weights.architecture == "jumprelu"  # its thresholds differ
    tensors = {name: torch.randn(size) for name, size in (("W_enc", (D, L)), ("b_enc", (L,)), ("b_dec", (D,)))}
    decoder_LD = torch.nn.functional.normalize(torch.randn(L, D))
    save_file({**tensors, "W_dec": decoder_LD, "threshold": torch.full((L,), 0.5)}, folder / "sae_weights.safetensors")
    sae = load(folder)
    assert (sae.config["architecture"], sae.k, sae.sparsity.threshold) == ("batch_topk", 9, 0.5)


@pytest.mark.parametrize("factor", [None, False, True])
def test_a_finetuning_factor_is_applied_or_refused(tmp_path: Path, factor: bool | None) -> None:
    folder = edited(tmp_path, "saelens/v3_standard",
                    **({} if factor is None else {"finetuning_scaling_factor": factor}))
    tensors = load_file(folder / "sae_weights.safetensors")
    save_file({**tensors, "scaling_factor": torch.full((L,), 2.0)}, folder / "sae_weights.safetensors")
    if factor:
        torch.testing.assert_close(read(folder).weights.W_dec_LD, 2 * tensors["W_dec"])
    else:
        with pytest.raises(UserError, match="scaling_factor"):
            read(folder)
    save_file({**tensors, "scaling_factor": torch.ones(L)}, folder / "sae_weights.safetensors")
    torch.testing.assert_close(read(folder).weights.W_dec_LD, tensors["W_dec"])
