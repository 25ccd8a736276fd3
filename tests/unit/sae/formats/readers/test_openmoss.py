"""OpenMOSS' files, old and new, against their documented formula in float64.

    y = x · √d_in / norm_in        h = y · W_E + b_E        f = h · 1[h · ‖W_D row‖ > θ]
    x_hat = (f · W_D + b_D) · norm_out / √D
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae.errors import UserError
from sae.formats.readers.registry import load, read

D, L, B = 12, 40, 64
NORMS = {"in": 7.0, "out": 3.0}


def tensors(d_out: int = D) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in (
        ("W_E", (D, L)), ("b_E", (L,)), ("W_D", (L, d_out)), ("b_D", (d_out,)))}


def llama_scope(folder: Path, d_out: int = D, **changes: Any) -> Path:
    """Write the old layout: two linear layers below `checkpoints`."""
    t = tensors(d_out)
    (folder / "checkpoints").mkdir(parents=True)
    save_file({"encoder.weight": t["W_E"].T.contiguous(), "encoder.bias": t["b_E"],
               "decoder.weight": t["W_D"].T.contiguous(), "decoder.bias": t["b_D"]},
              folder / "checkpoints" / "final.safetensors")
    config = {"d_model": D, "d_sae": L, "act_fn": "jumprelu", "jump_relu_threshold": 2.5, "top_k": 50,
              "norm_activation": "dataset-wise", "dataset_average_activation_norm": NORMS, "use_decoder_bias": True,
              "apply_decoder_bias_to_pre_encoder": False, "sparsity_include_decoder_norm": True,
              "hook_point_in": "blocks.8.hook_resid_post", "hook_point_out": "blocks.8.hook_resid_post"}
    (folder / "hyperparams.json").write_text(json.dumps({**config, **changes}))
    return folder


def newer(folder: Path, d_out: int = D, more: dict[str, Tensor] | None = None, **changes: Any) -> Path:
    """Write the new layout: W_E, W_D, b_E, b_D next to `config.json`."""
    folder.mkdir(parents=True)
    hook = "blocks.8.hook_resid_post"
    save_file({**tensors(d_out), **(more or {}), f"dataset_average_activation_norm.{hook}": torch.tensor(7.0)},
              folder / "sae_weights.safetensors")
    config = {"sae_type": "sae", "d_model": D, "expansion_factor": L / D, "act_fn": "relu", "top_k": 4,
              "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True, "hook_point_in": hook,
              "hook_point_out": hook}
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def formula(x_BD: Tensor, theta: float | Tensor, *, by_norm: bool = True, d_out: int = D, k: int = 0,
            norm_out: float = 7.0) -> tuple[Tensor, Tensor]:
    """Return (activations times the decoder's norm in raw units, x_hat)."""
    t = {name: value.double() for name, value in tensors(d_out).items()}
    norm_L = t["W_D"].norm(dim=1)
    h = x_BD.double() * D**0.5 / 7.0 @ t["W_E"] + t["b_E"]
    seen = h * norm_L if by_norm else h
    theta = seen.topk(k).values[:, -1:] - 1e-9 if k else theta
    f = h.relu() * (seen > theta)
    back = norm_out / d_out**0.5
    return f * norm_L * back, (f @ t["W_D"] + t["b_D"]) * back


def agree(folder: Path, expected: tuple[Tensor, Tensor], x_BD: Tensor, **given: Any) -> None:
    sae = load(folder, **given)
    f_BL = sae.activation_of(x_BD, torch.arange(L)).double()
    scale = float(expected[0].max() / f_BL.max())  # an artefact's activations may have another unit than its target's
    torch.testing.assert_close(f_BL * scale, expected[0], rtol=1e-4, atol=1e-4)
    assert scale == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(sae.reconstruct(x_BD).double(), expected[1], rtol=1e-4, atol=1e-4)


@pytest.fixture
def x_BD() -> Tensor:
    return 3 * torch.randn(B, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("by_norm", [True, False])
def test_llama_scope_has_one_threshold_in_scaled_units(tmp_path: Path, x_BD: Tensor, by_norm: bool) -> None:
    folder = llama_scope(tmp_path / "Llama3_1-8B-Base-L8R-8x", dataset_average_activation_norm={"in": 7.0, "out": 7.0},
                         sparsity_include_decoder_norm=by_norm)
    foreign = read(folder)
    assert (foreign.model, foreign.hook, foreign.bos) == ("meta-llama/Llama-3.1-8B", "blocks.8.hook_resid_post", True)
    assert not foreign.asks
    agree(folder, formula(x_BD, 2.5, by_norm=by_norm), x_BD)


def test_a_llama_scope_transcoder_has_two_scales(tmp_path: Path, x_BD: Tensor) -> None:
    folder = llama_scope(tmp_path / "tc", 10, hook_point_in="blocks.8.ln2.hook_normalized",
                         hook_point_out="blocks.8.hook_mlp_out")
    assert read(folder).out_hook == "blocks.8.hook_mlp_out"
    sae, expected = load(folder), formula(x_BD, 2.5, d_out=10, norm_out=3.0)
    torch.testing.assert_close(sae.reconstruct(x_BD).double(), expected[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae.activation_of(x_BD, torch.arange(L)).double(), expected[0], rtol=1e-4, atol=1e-4)


def test_newer_folders_with_each_rule(tmp_path: Path, x_BD: Tensor) -> None:
    agree(newer(tmp_path / "relu"), formula(x_BD, 0), x_BD)
    agree(newer(tmp_path / "topk", act_fn="topk"), formula(x_BD, 0, k=4), x_BD)
    theta_L = torch.rand(L, generator=torch.Generator().manual_seed(2)) + 0.5
    more = {"activation_function.log_jumprelu_threshold": theta_L.log()}
    agree(newer(tmp_path / "jump", more=more, act_fn="jumprelu"), formula(x_BD, theta_L.double()), x_BD)
    agree(newer(tmp_path / "batch", act_fn="batchtopk"), formula(x_BD, 1.5), x_BD, threshold=1.5)
    foreign = read(tmp_path / "batch")
    assert (foreign.calibrate, foreign.weights.k) == (True, 4)


@pytest.mark.parametrize(("changes", "says"), [
    ({"act_fn": "jumprelu"}, "neither a jump_relu_threshold"), ({"act_fn": "topk", "top_k": None}, "top_k is None"),
    ({"act_fn": "swish"}, "act_fn 'swish'"), ({"norm_activation": "batch-wise"}, "batch-wise"),
    ({"sae_type": "clt"}, "sae_type 'clt'"), ({"use_glu_encoder": True}, "use_glu_encoder"),
    ({"d_model": 13}, "d_model is 13, but the tensors have 12")])
def test_what_cannot_be_expressed_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(newer(tmp_path / "sae", **changes))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_scale_is_asked_for_and_a_given_one_is_used(tmp_path: Path) -> None:
    folder = llama_scope(tmp_path / "sae", dataset_average_activation_norm=None)
    assert "input_scale" in read(folder).asks
    assert read(folder, {"input_scale": 0.25}).weights.input_scale == 0.25
    assert read(newer(tmp_path / "folded", norm_activation="inference")).weights.input_scale == 1.0
