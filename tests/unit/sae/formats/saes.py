"""SAEs with an exact reconstruction by construction, for tests of imports without training.

The rows of the decoder are an orthonormal basis and its negative.  With ReLU exactly half of the
latents fire, and x_hat is x.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests import FIXTURES

D = 256  # d_model of the embedded model
SAES = FIXTURES / "saes"  # files that other libraries wrote, of width 12 with 40 latents


def basis(seed: int = 0) -> Tensor:
    """Return a random orthonormal basis of the residual stream, [D, D]."""
    return torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(seed))).Q.contiguous()


def saelens(folder: Path, *, k: int | None = None, layer: int = 2, scale: float = 1.0, **config: object) -> Path:
    """Write a SAELens v6 folder: ReLU, or TopK with `k`.  b_dec is large, so that centring matters."""
    U_DD = basis()
    W_dec_LD = torch.cat([U_DD, -U_DD]) * scale
    b_dec_D = 300 * basis(1)[0]
    folder.mkdir(parents=True)
    save_file({"W_enc": (W_dec_LD / scale**2).T.contiguous(), "W_dec": W_dec_LD, "b_enc": torch.zeros(2 * D),
               "b_dec": b_dec_D}, folder / "sae_weights.safetensors")
    cfg = {"architecture": "topk" if k else "standard", "d_in": D, "d_sae": 2 * D, "dtype": "float32",
           "apply_b_dec_to_input": True, "normalize_activations": "none", **({"k": k} if k else {}),
           "metadata": {"sae_lens_version": "6.54.12", "model_name": "demo", "prepend_bos": True, "context_size": 64,
                        "hook_name": f"blocks.{layer}.hook_resid_post"}, **config}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder


def square(folder: Path, transposed: bool) -> Path:
    """Write a bare file with as many latents as dimensions, which all fire, and optionally a transposed decoder."""
    U_DD, lift = basis(), 1000.0
    folder.mkdir(parents=True)
    save_file({"W_enc": U_DD.T.contiguous(), "W_dec": (U_DD.T if transposed else U_DD).contiguous(),
               "b_enc": torch.full((D,), lift), "b_dec": -lift * U_DD.sum(dim=0)}, folder / "tensors.safetensors")
    return folder


def edited(tmp_path: Path, case: str, **changes: Any) -> Path:
    """Copy a folder of `SAES` and change its cfg.json."""
    folder = tmp_path / "sae"
    shutil.copytree(SAES / case, folder)
    config = json.loads((folder / "cfg.json").read_text())
    metadata = changes.pop("metadata", {})
    config = {**config, **changes}
    if metadata:
        config["metadata"] = {**config["metadata"], **metadata}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder
