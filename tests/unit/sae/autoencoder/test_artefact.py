"""An artefact on disk gives back the SAE that was saved, or an error that says what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae.autoencoder import artefact as engine
from sae.autoencoder.architectures import REGISTRY
from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError

KINDS = [(a, n) for a in ("batch_topk", "topk") for n in ("none", "dataset", "layer_norm")]


def residual(n_tokens: int = 40, width: int = 256) -> Tensor:
    return 2 * torch.randn(n_tokens, width, generator=torch.Generator().manual_seed(5)) + 0.3


def dense_by_hand(sae: Autoencoder, x_BD: Tensor) -> Tensor:
    """Return all activations by the formulas of the artefact, in float64."""
    x_BD = x_BD.double()
    if sae.config["normalize"] == "layer_norm":
        x_BD = (x_BD - x_BD.mean(dim=1, keepdim=True)) / (x_BD.std(dim=1, keepdim=True) + 1e-5)
    pre_BL = (x_BD - sae.b_dec_D.double()) @ sae.W_enc_LD.double().T + sae.b_enc_L.double()
    if sae.sparsity.threshold is not None:
        return torch.where(pre_BL > sae.sparsity.threshold, pre_BL, 0.0)
    cut_B1 = pre_BL.topk(sae.k, dim=1).values[:, -1:]
    return torch.where((pre_BL >= cut_B1) & (pre_BL > 0), pre_BL, 0.0)


def dense(sae: Autoencoder, x_BD: Tensor) -> Tensor:
    codes = sae.codes(x_BD)
    out = torch.zeros(len(x_BD), sae.n_latents)
    out[codes.token_N, codes.latent_N] = codes.value_N
    return out


@pytest.mark.parametrize(("architecture", "normalize"), KINDS)
def test_inference_follows_the_formulas(tiny_sae: Any, architecture: str, normalize: str) -> None:
    sae, x_BD = tiny_sae(architecture, normalize), residual()
    expected_BL = dense_by_hand(sae, x_BD)
    assert 0 < int((expected_BL > 0).sum()) < expected_BL.numel()
    torch.testing.assert_close(dense(sae, x_BD), expected_BL.float(), rtol=1e-4, atol=1e-4)
    scale_B1, shift_B1 = torch.ones(len(x_BD), 1), torch.zeros(len(x_BD), 1)
    if normalize == "layer_norm":
        scale_B1, shift_B1 = x_BD.std(dim=1, keepdim=True) + 1e-5, x_BD.mean(dim=1, keepdim=True)
    torch.testing.assert_close(sae.scale(x_BD), scale_B1)
    x_hat_BD = (expected_BL.float() @ sae.W_dec_LD + sae.b_dec_D) * scale_B1 + shift_B1
    torch.testing.assert_close(sae.reconstruct(x_BD), x_hat_BD, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("architecture", "normalize"), KINDS)
def test_activation_of_some_latents_equals_the_dense_codes(
    tiny_sae: Any, architecture: str, normalize: str
) -> None:
    sae, x_BD = tiny_sae(architecture, normalize), residual()
    latents = torch.tensor([17, 3, 3, 47])
    found_Bn = sae.activation_of(x_BD, latents)
    expected_Bn = dense(sae, x_BD)[:, latents]
    torch.testing.assert_close(found_Bn, expected_Bn, rtol=1e-5, atol=1e-5)
    assert torch.equal(found_Bn > 0, expected_Bn > 0)


@pytest.mark.parametrize("architecture", ["batch_topk", "topk"])
def test_pieces_of_a_large_batch_give_the_same_codes(
    tiny_sae: Any, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, x_BD = tiny_sae(architecture), residual()
    whole = dense(sae, x_BD)
    monkeypatch.setattr(engine, "_PRODUCT_ENTRIES", 7 * sae.n_latents)
    assert [len(part) for part in sae.pieces(x_BD)] == [7, 7, 7, 7, 7, 5]
    torch.testing.assert_close(dense(sae, x_BD), whole, rtol=1e-5, atol=1e-5)
    assert sae.codes(x_BD[:0]).n_tokens == 0


def of_eighths(architecture: str, seed: int) -> tuple[Autoencoder, Tensor]:
    """Return an SAE of 32 latents and inputs in multiples of 1/8: every product is exact, and many are equal."""
    generator = torch.Generator().manual_seed(seed)

    def eighths(*shape: int, low: int = -8) -> Tensor:
        return torch.randint(low, 9, shape, generator=generator) / 8

    own = {"batch_topk": {"threshold": torch.tensor([0.5])}, "matryoshka": {"threshold": torch.tensor([0.5])},
           "jumprelu": {"threshold": eighths(32, low=0)},
           "gated": {"r_mag": torch.zeros(32), "b_mag": eighths(32)}}.get(architecture, {})
    sae = Autoencoder(
        {"W_enc": eighths(32, 8), "b_enc": eighths(32), "W_dec": eighths(32, 8), "b_dec": eighths(8), **own},
        {"architecture": architecture, "k": 3, "normalize": "none"})
    return sae, eighths(20, 8)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("architecture", list(REGISTRY))
def test_near_misses_are_what_lacks_little_and_is_silent(architecture: str, share: float) -> None:
    for seed in range(20):
        sae, x_BD = of_eighths(architecture, seed)
        pre_BL, codes = sae.pre_activations(x_BD), sae.codes(x_BD)
        active, misses = sae.codes_and_misses(x_BD, share)
        for mine, theirs in zip(vars(active).values(), vars(codes).values(), strict=False):
            assert torch.equal(mine, theirs) if isinstance(mine, Tensor) else mine == theirs
        silent_BL = torch.ones_like(pre_BL, dtype=torch.bool)
        silent_BL[codes.token_N, codes.latent_N] = False
        bias: Tensor | float = sae.b_enc_L
        if architecture == "topk":
            threshold, bias = pre_BL.topk(3, dim=1).values[:, -1:].clamp(min=0), 0.0
        elif architecture == "jumprelu":
            threshold = sae.sparsity.tensors()["threshold"]
        else:
            threshold = torch.tensor(sae.sparsity.threshold or 0.0)
        near_BL = silent_BL & (pre_BL > threshold - share * (threshold - bias).clamp(min=0)) & (share > 0)
        assert torch.equal(torch.stack([misses.token_N, misses.latent_N], dim=1), near_BL.nonzero())
        assert torch.equal(misses.value_N, pre_BL[near_BL])


@pytest.mark.parametrize(("architecture", "normalize"), KINDS)
def test_saved_and_loaded_gives_the_same_outputs_bit_for_bit(
    tiny_sae: Any, tmp_path: Path, architecture: str, normalize: str
) -> None:
    sae, x_BD = tiny_sae(architecture, normalize), residual()
    sae.save(tmp_path / "a")
    again = Autoencoder.load(tmp_path / "a")
    assert again.config == sae.config
    assert torch.equal(again.reconstruct(x_BD), sae.reconstruct(x_BD))
    assert torch.equal(dense(again, x_BD), dense(sae, x_BD))
    again.save(tmp_path / "b")
    assert (tmp_path / "b" / "sae.safetensors").read_bytes() == (tmp_path / "a" / "sae.safetensors").read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["sae.json", "sae.safetensors"]


# ---- damage


def config_with(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "sae.json").read_text())
        for name, value in changes.items():
            if value is ...:
                del config[name]
            else:
                config[name] = value
        (folder / "sae.json").write_text(json.dumps(config))

    return damage


def tensors_with(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "sae.safetensors")
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae.safetensors")

    return damage


def truncate(name: str, keep: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        assert len(whole) > keep
        (folder / name).write_bytes(whole[:keep])

    return damage


def set_nan(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name].view(-1)[-1] = float("nan")

    return change


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda folder: (folder / "sae.json").unlink(), "there is no SAE"),
    "no weights": (lambda folder: (folder / "sae.safetensors").unlink(), "cannot be read"),
    "config is cut": (truncate("sae.json", 60), "not JSON"),
    "config is binary": (lambda folder: (folder / "sae.json").write_bytes(b"\xff\xfe{}"), "not JSON"),
    "config is a list": (lambda folder: (folder / "sae.json").write_text("[1]"), "not a JSON object"),
    "weights are cut": (truncate("sae.safetensors", 5000), "cannot be read"),
    "weights are empty": (truncate("sae.safetensors", 0), "cannot be read"),
    "weights are foreign": (lambda folder: (folder / "sae.safetensors").write_bytes(b"PK" * 50), "cannot be read"),
    "tensor missing": (tensors_with(lambda t: t.pop("b_enc")), r"b_enc should be \(48,\), found nothing"),
    "tensor transposed": (tensors_with(lambda t: t.update(W_enc=t["W_enc"].T)), "W_enc should be"),
    "tensor shorter": (tensors_with(lambda t: t.update(b_dec=t["b_dec"][:-1])), "b_dec should be"),
    "not finite weights": (tensors_with(set_nan("W_dec")), "W_dec holds values that are not finite"),
    "not finite threshold": (tensors_with(set_nan("threshold")), "threshold holds values that are not finite"),
    "no threshold": (tensors_with(lambda t: t.pop("threshold")), "threshold should be"),
    "empty threshold": (tensors_with(lambda t: t.update(threshold=torch.zeros(0))), "threshold should be"),
    "integers": (tensors_with(lambda t: t.update(W_dec=t["W_dec"].int())), "W_dec"),
    "decoder not of unit norm": (tensors_with(lambda t: t["W_dec"].mul_(2)), "unit norm"),
    "folded": (config_with(weight_processing="folded"), "raw"),
    "no word of folding": (config_with(weight_processing=...), "raw"),
    "schema of the future": (config_with(schema_version=2), "schema_version 2"),
    "no schema": (config_with(schema_version=...), "schema_version None"),
    "other size": (config_with(n_latents=49), "W_enc should be"),
    "size missing": (config_with(n_latents=...), "n_latents"),
    "unknown architecture": (config_with(architecture="sparse_gated"), "architecture"),
    "no architecture": (config_with(architecture=...), "architecture"),
    "unknown normalisation": (config_with(normalize="whiten"), "normalize"),
    "k missing": (config_with(k=...), "k"),
    "k is text": (config_with(k="12"), "k"),
    "k above the latents": (config_with(k=49), "k"),
    "no site": (config_with(site=...), "site"),
    "site without layer": (config_with(site={}), "layer"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_artefact_is_refused_in_one_line(tiny_sae: Any, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    tiny_sae(folder=tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        Autoencoder.load(tmp_path)
    assert caught.value.field == "sae"
    assert str(caught.value).startswith("sae: ")
    assert "\n" not in str(caught.value)


def test_half_precision_weights_work_in_float32(tiny_sae: Any, tmp_path: Path) -> None:
    tiny_sae(folder=tmp_path)
    tensors_with(lambda t: t.update({name: tensor.half() for name, tensor in t.items()}))(tmp_path)
    assert Autoencoder.load(tmp_path).codes(residual()).value_N.dtype == torch.float32


def test_an_error_while_saving_leaves_the_artefact_that_was_there(
    tiny_sae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_sae(folder=tmp_path)
    before = (tmp_path / "sae.safetensors").read_bytes()

    def full(*args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(engine, "save_file", full)
    with pytest.raises(OSError, match="space"):
        tiny_sae(seed=1, folder=tmp_path)
    assert (tmp_path / "sae.safetensors").read_bytes() == before
