"""The SAE artefact: weights, encode, decode, save and load.

An artefact takes raw activations.  Its decoder rows have unit norm, so an activation is the
length that its latent adds (times the token's scale under per-token layer norm).

    y, scale, shift = normalise(x)
    pre   = (y − b_dec) · W_encᵀ + b_enc
    f     = select(pre)                       sparse, float32
    x_hat = (f · W_dec + b_dec) · scale + shift

Shapes: B tokens, L latents, D width, N active pairs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae.architectures import REGISTRY, make
from sae.errors import UserError
from sae.kernels.codes import Codes
from sae.normalization import Normalizer
from sae.rundir import write_json
from sae.specs import Normalization

SCHEMA_VERSION = 1
_PRODUCT_ENTRIES = 1 << 25  # entries of a dense [B, L] product made at once: 128 MiB
_UNIT_TOLERANCE = 1e-3  # of the norm of a decoder row: what half precision leaves of it


class Autoencoder:
    """A trained SAE.  `config` is its `sae.json`."""

    def __init__(self, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
        self.W_enc_LD = tensors["W_enc"]
        self.b_enc_L = tensors["b_enc"]
        self.W_dec_LD = tensors["W_dec"]
        self.b_dec_D = tensors["b_dec"]
        self.config = config
        self.normalizer = Normalizer("layer_norm" if config["normalize"] == "layer_norm" else "none")
        self.sparsity = make(config["architecture"], config["k"])
        if "threshold" in tensors:
            self.sparsity.threshold = float(tensors["threshold"].reshape(-1)[0])

    @property
    def n_latents(self) -> int:
        return self.W_dec_LD.shape[0]

    @property
    def d_model(self) -> int:
        return self.W_dec_LD.shape[1]

    @property
    def k(self) -> int:
        return self.sparsity.k

    @property
    def layer(self) -> int:
        return int(self.config["site"]["layer"])

    @property
    def device(self) -> torch.device:
        return self.W_dec_LD.device

    # ---- inference

    def pre_activations(self, x_BD: Tensor) -> Tensor:
        """[B, L] float32, before selection."""
        y_BD, _, _ = self.normalizer.apply(x_BD)
        return torch.addmm(self.b_enc_L, y_BD - self.b_dec_D, self.W_enc_LD.T)

    def pieces(self, x_BD: Tensor) -> Iterator[Tensor]:
        """`x_BD` in runs of rows for which the dense [B, L] product stays small."""
        return iter(torch.split(x_BD, max(1, _PRODUCT_ENTRIES // self.n_latents)))

    def codes(self, x_BD: Tensor) -> Codes:
        """The active latents of raw activations `x_BD`, by the inference rule."""
        return Codes.concatenate([self.sparsity.select(self.pre_activations(part)) for part in self.pieces(x_BD)])

    def activation_of(self, x_BD: Tensor, latents: Tensor) -> Tensor:
        """Activations [B, n] of the given latents only; 0 where a latent is not active.

        With a threshold only those rows are computed; TopK has to see all of them to decide.
        """
        if self.sparsity.has_threshold:
            y_BD, _, _ = self.normalizer.apply(x_BD)
            pre = torch.addmm(self.b_enc_L[latents], y_BD - self.b_dec_D, self.W_enc_LD[latents].T)
            active = self.sparsity.select(pre)
            out = torch.zeros_like(pre)
            out[active.token_N, active.latent_N] = active.value_N
            return out
        codes = self.codes(x_BD)
        dense_BL = torch.zeros(len(x_BD), self.n_latents, device=x_BD.device)
        dense_BL[codes.token_N, codes.latent_N] = codes.value_N
        return dense_BL[:, latents]

    def scale(self, x_BD: Tensor) -> Tensor:
        """[B, 1]: what a unit of activation is worth in the raw residual of each token."""
        return self.normalizer.apply(x_BD)[1]

    def decode(self, codes: Codes, x_BD: Tensor) -> Tensor:
        """The raw reconstruction [B, D] of `codes`, with the scale and shift of the tokens `x_BD`."""
        _, scale_B1, shift_B1 = self.normalizer.apply(x_BD)
        return (codes.decode(self.W_dec_LD) + self.b_dec_D) * scale_B1 + shift_B1

    def reconstruct(self, x_BD: Tensor) -> Tensor:
        return self.decode(self.codes(x_BD), x_BD)

    def to(self, device: torch.device | str) -> Autoencoder:
        """A copy on another device."""
        tensors = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return Autoencoder(tensors, self.config)

    # ---- disk

    def tensors(self) -> dict[str, Tensor]:
        out = {"W_enc": self.W_enc_LD, "b_enc": self.b_enc_L, "W_dec": self.W_dec_LD, "b_dec": self.b_dec_D}
        if self.sparsity.threshold is not None:
            out["threshold"] = torch.tensor([self.sparsity.threshold], dtype=torch.float32)
        return out

    def save(self, folder: Path) -> None:
        """Write `sae.safetensors`, then `sae.json`: an SAE is there once its `sae.json` is."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"sae.safetensors.{os.getpid()}.tmp"
        save_file({name: t.detach().float().cpu().contiguous() for name, t in self.tensors().items()}, temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, folder / "sae.safetensors")
        write_json(folder / "sae.json", self.config)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Autoencoder:
        """Read an artefact folder.  Raises UserError (field `sae`) where it is missing or inconsistent."""
        config = read_config(folder)
        _check_config(config, folder)
        try:
            tensors = load_file(folder / "sae.safetensors", device=str(device))
        except Exception as error:  # safetensors raises its own kinds for truncated or foreign files
            raise UserError(f"sae: {folder / 'sae.safetensors'} cannot be read: {error}", "sae") from None
        _check_tensors(tensors, config, folder)
        return cls({name: tensor.float() for name, tensor in tensors.items()}, config)


def read_config(folder: Path) -> dict[str, Any]:
    """The `sae.json` of an artefact folder.  Raises UserError (field `sae`)."""
    try:
        config: Any = json.loads((folder / "sae.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"sae: there is no SAE in {folder}", "sae") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"sae: {folder / 'sae.json'} is not JSON: {error}", "sae") from None
    if not isinstance(config, dict):
        raise UserError(f"sae: {folder / 'sae.json'} is not a JSON object", "sae")
    if config.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"sae: {folder} has schema_version {config.get('schema_version')}, not {SCHEMA_VERSION}", "sae")
    return config


def _check_config(config: dict[str, Any], folder: Path) -> None:
    """Raise UserError where `config` lacks what inference needs, or says what this program cannot do."""
    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise UserError(f"sae: {folder}: {what}", "sae")

    for name in ("n_latents", "d_model", "k"):
        value = config.get(name)
        demand(isinstance(value, int) and value > 0, f"{name} should be a positive whole number, found {value!r}")
    demand(config["k"] <= config["n_latents"], f"k is {config['k']}, more than its {config['n_latents']} latents")
    for name, known in (("architecture", list(REGISTRY)), ("normalize", get_args(Normalization))):
        demand(config.get(name) in known, f"{name} is {config.get(name)!r}, known here are {', '.join(known)}")
    site = config.get("site")
    demand(isinstance(site, dict) and isinstance(site.get("layer"), int), "site names no layer of the language model")
    demand(config.get("weight_processing") == "raw",
           f"made for {config.get('weight_processing')} weights, this program reads raw ones; its latents would mean "
           "nothing here")


def _check_tensors(tensors: dict[str, Tensor], config: dict[str, Any], folder: Path) -> None:
    """Raise UserError where a tensor is missing, misshapen or broken, or the decoder is not of unit norm."""
    L, D = config["n_latents"], config["d_model"]
    expected = {"W_enc": (L, D), "b_enc": (L,), "W_dec": (L, D), "b_dec": (D,)}
    if REGISTRY[config["architecture"]].has_threshold:
        if "threshold" not in tensors:
            raise UserError(f"sae: {folder}: a {config['architecture']} SAE needs a threshold", "sae")
        expected["threshold"] = (1,)
    for name, shape in expected.items():
        tensor = tensors.get(name)
        if tensor is None or tuple(tensor.shape) != shape or not tensor.is_floating_point():
            found = "nothing" if tensor is None else f"{tuple(tensor.shape)} of {tensor.dtype}"
            raise UserError(f"sae: {folder}: {name} should be {shape}, found {found}", "sae")
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"sae: {folder}: {name} holds values that are not finite", "sae")
    if float((tensors["W_dec"].float().norm(dim=1) - 1).abs().max()) > _UNIT_TOLERANCE:
        raise UserError(f"sae: {folder}: the rows of W_dec should have unit norm", "sae")
