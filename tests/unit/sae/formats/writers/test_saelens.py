"""Our SAELens folders give equal codes, by SAELens' formulas written here and by SAELens itself if installed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError
from sae.formats.writers.archive import write_folder
from sae.formats.writers.saelens import members
from tests import ROOT

B, L, D, D_OUT, K = 64, 40, 16, 12, 5
PEER = Path(os.environ.get("SAESCOPE_PEER_SAELENS", ROOT / "benchmarks" / "peers" / "saelens" / "bin" / "python"))


def make_sae(architecture: str = "relu", normalize: str = "none", hook: str = "blocks.2.hook_resid_post",
             **changes: Any) -> Autoencoder:
    """Make an SAE with random weights.  `changes` may hold out_hook, skip, b_in ("zero", "own") and scaled."""
    generator = torch.Generator().manual_seed(hash((architecture, normalize)) % 1000)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    out = D_OUT if changes.get("out_hook") else D
    W_dec_LD = random(L, out)
    tensors = {"W_enc": random(L, D), "b_enc": random(L) / 2, "b_dec": random(out),
               "W_dec": W_dec_LD / W_dec_LD.norm(dim=1, keepdim=True)}
    if architecture in ("batch_topk", "matryoshka"):
        tensors["threshold"] = torch.tensor([0.9])
    if architecture == "jumprelu":
        tensors["threshold"] = random(L).abs()
    if architecture == "gated":
        tensors |= {"r_mag": random(L) / 4, "b_mag": random(L)}
    if changes.get("b_in") or changes.get("out_hook"):
        tensors["b_in"] = torch.zeros(D) if changes.get("b_in") == "zero" else random(D)
    if changes.get("skip"):
        tensors["W_skip"] = random(D, out)
    if changes.get("scaled"):
        tensors["activation_scale"] = 1 + random(L).abs()
    site: dict[str, Any] = {"layer": 2, "hook": hook}
    if changes.get("out_hook"):
        site["out_hook"] = changes["out_hook"]
    k = K if architecture in ("topk", "batch_topk", "matryoshka") else None
    return Autoencoder(tensors, {
        "schema_version": 1, "id": "demo/2-res", "model": {"name": "demo", "id": "demo"}, "site": site,
        "architecture": architecture, "n_latents": L, "d_model": out, "d_in": D, "k": k, "normalize": normalize,
        "weight_processing": "raw", "bos": {"prepended": True, "trained_on": False}, "context_length": 128,
        "threshold": None, "metrics": {"l0": 5.1}, "training": {"text": "stdlib"}, "created": 1.0,
        "saescope_version": "0"})


CASES: dict[str, dict[str, Any]] = {
    "relu": {}, "topk": {"architecture": "topk"}, "batch_topk": {"architecture": "batch_topk"},
    "matryoshka": {"architecture": "matryoshka"}, "jumprelu": {"architecture": "jumprelu"},
    "gated": {"architecture": "gated"}, "layer_norm": {"architecture": "batch_topk", "normalize": "layer_norm"},
    "layer_norm_std": {"architecture": "topk", "normalize": "layer_norm_std"},
    "constant_norm": {"architecture": "topk", "normalize": "constant_norm"},
    "dataset": {"architecture": "batch_topk", "normalize": "dataset"},
    "uncentred": {"architecture": "jumprelu", "b_in": "zero"}, "own_centre": {"architecture": "relu", "b_in": "own"},
    "own_centre_gated": {"architecture": "gated", "b_in": "own"}, "scaled": {"architecture": "topk", "scaled": True},
    "centre": {"architecture": "jumprelu", "normalize": "centre"},
    "hook_z": {"hook": "blocks.2.attn.hook_z"},
    "transcoder": {"out_hook": "blocks.2.hook_mlp_out", "hook": "blocks.2.mlp.hook_in"},
    "jumprelu_transcoder": {"architecture": "batch_topk", "out_hook": "blocks.2.hook_mlp_out"},
    "skip_transcoder": {"out_hook": "blocks.2.hook_mlp_out", "skip": True},
    "jumprelu_skip_transcoder": {"architecture": "jumprelu", "out_hook": "blocks.2.hook_mlp_out", "skip": True},
}
# SAELens applies its layer norm with 1e-5, but undoes it without.
UNDONE = dict.fromkeys(CASES, 1e-7) | {"layer_norm": 2e-5}


def x_of(name: str) -> torch.Tensor:
    return 3 * torch.randn(B, D, generator=torch.Generator().manual_seed(len(name))) + 1


def write(sae: Autoencoder, folder: Path) -> Path:
    sae.save(folder / "ours")
    write_folder(members(folder / "ours", sae.config), folder / "saelens")
    return folder / "saelens"


def expected(sae: Autoencoder, x_BD: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return our codes, in the units of the written decoder, and reconstructions."""
    codes = sae.codes(x_BD)
    dense_BL = torch.zeros(B, L)
    dense_BL[codes.token_N, codes.latent_N] = codes.value_N
    if sae.activation_scale_L is not None:
        dense_BL = dense_BL / sae.activation_scale_L
    x_hat = sae.reconstruct(x_BD)
    if sae.normalizer.kind == "centre":  # SAELens reconstructs the centred residual stream
        x_hat = x_hat - x_BD.mean(dim=1, keepdim=True)
    return dense_BL.numpy(), x_hat.numpy()


def reference(folder: Path, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute codes and reconstructions by SAELens' formulas, from its files alone."""
    cfg = json.loads((folder / "cfg.json").read_text())
    t = load_file(folder / "sae_weights.safetensors")
    undo = lambda y: y  # noqa: E731
    y = x
    if cfg["normalize_activations"] == "layer_norm":
        mean, std = x.mean(-1, keepdims=True), x.std(-1, ddof=1, keepdims=True)
        y, undo = (x - mean) / (std + 1e-5), lambda z: z * std + mean
    if cfg["normalize_activations"] == "constant_norm_rescale":
        factor = cfg["d_in"] ** 0.5 / np.linalg.norm(x, axis=-1, keepdims=True)
        y, undo = x * factor, lambda z: z / factor
    if cfg["apply_b_dec_to_input"]:
        y = y - t["b_dec"]
    if cfg["architecture"] == "gated":
        f = (y @ t["W_enc"] + t["b_gate"] > 0) * np.maximum(y @ (t["W_enc"] * np.exp(t["r_mag"])) + t["b_mag"], 0)
    else:
        pre = y @ t["W_enc"] + t["b_enc"]
        f = np.maximum(pre, 0)
        if "jumprelu" in cfg["architecture"]:
            f = f * (pre > t["threshold"])
        if cfg["architecture"] == "topk":
            f[np.arange(len(f))[:, None], np.argsort(-pre, axis=1)[:, cfg["k"]:]] = 0
    out = f @ t["W_dec"] + t["b_dec"]
    if "transcoder" in cfg["architecture"]:
        return f, out + x @ t["W_skip"].T if "skip" in cfg["architecture"] else out
    return f, undo(out)


@pytest.mark.parametrize("name", CASES)
def test_saelens_formulas_give_our_codes(tmp_path: Path, name: str) -> None:
    sae, x_BD = make_sae(**CASES[name]), x_of(name)
    codes, out = reference(write(sae, tmp_path), x_BD.numpy())
    our_codes, our_out = expected(sae, x_BD)
    np.testing.assert_allclose(codes, our_codes, atol=2e-5)
    np.testing.assert_allclose(out, our_out, atol=5e-5, rtol=UNDONE[name])
    assert (our_codes > 0).any()


@pytest.mark.slow
@pytest.mark.skipif(not PEER.exists(), reason=f"no SAELens at {PEER}: a virtual environment with sae-lens 6.54.12")
def test_the_real_saelens_gives_our_codes(tmp_path: Path) -> None:
    folders = {}
    for name, case in CASES.items():
        folders[name] = write(make_sae(**case), tmp_path / name)
        np.save(folders[name] / "x.npy", x_of(name).numpy())
    script = ROOT / "benchmarks" / "peers" / "saelens_codes.py"
    done = subprocess.run([str(PEER), str(script), *map(str, folders.values())], capture_output=True, text=True,
                          check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, folder in folders.items():
        codes, out = expected(make_sae(**CASES[name]), x_of(name))
        np.testing.assert_allclose(np.load(folder / "codes.npy"), codes, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(np.load(folder / "out.npy"), out, atol=5e-5, rtol=UNDONE[name], err_msg=name)


def test_the_true_architecture_is_in_the_metadata(tmp_path: Path) -> None:
    folder = write(make_sae("matryoshka", "layer_norm"), tmp_path)
    cfg = json.loads((folder / "cfg.json").read_text())
    assert cfg["architecture"] == "jumprelu"
    assert cfg["normalize_activations"] == "layer_norm"
    metadata = cfg["metadata"]
    assert metadata["training_architecture"] == "matryoshka_batchtopk"
    assert metadata["saescope"]["architecture"] == "matryoshka"
    assert metadata["hook_name"] == "blocks.2.hook_resid_post"
    assert (metadata["prepend_bos"], metadata["context_size"], metadata["training_k"]) == (True, 128, K)
    assert int(metadata["sae_lens_version"].split(".")[0]) >= 6
    assert load_file(folder / "sae_weights.safetensors")["threshold"].shape == (L,)


@pytest.mark.parametrize("case", [
    {"normalize": "centre", "out_hook": "blocks.2.hook_mlp_out"},
    {"architecture": "topk", "out_hook": "blocks.2.hook_mlp_out"},
    {"architecture": "gated", "out_hook": "blocks.2.hook_mlp_out"}])
def test_what_saelens_cannot_express_is_refused(tmp_path: Path, case: dict[str, Any]) -> None:
    sae = make_sae(**case)
    with pytest.raises(UserError, match="cannot express"):
        write(sae, tmp_path)
    assert not (tmp_path / "saelens").exists()
