"""The SAE artefact: weights, encode, decode, save and load.

An artefact takes raw activations.  Its decoder rows have unit norm, so an activation is the length of the vector that
its latent adds (times the token's scale under per-token normalisation).

    y, scale, shift = normalise(x)
    pre   = (y − b_dec) · W_encᵀ + b_enc
    f     = select(pre) · activation_scale    sparse, float32
    x_hat = (f · W_dec + b_dec) · scale + shift

`activation_scale` [L] exists only if the decoder's norms could not be folded into the encoder without changing the
selection (an imported TopK).  A transcoder reads one site and reconstructs another. It subtracts its own `b_in`
instead of `b_dec` before the encoder and adds `x · W_skip` if it has one.  Its output is not scaled token by token.

Shapes: B tokens, L latents, D width (of the input or of the output), N active pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae.autoencoder.architectures import REGISTRY, make
from sae.autoencoder.config import read_config
from sae.autoencoder.normalization import KINDS, Normalizer
from sae.errors import UserError
from sae.kernels.bf16_screen import Screen
from sae.kernels.codes import Codes
from sae.kernels.device import has_fast_bfloat16
from sae.kernels.select import entries_above
from sae.workspace.files import atomic_write, write_json

Shapes = dict[str, set[tuple[int, ...]]]
Normalized = tuple[Tensor, Tensor, Tensor]  # what `Normalizer.apply` returns
_PRODUCT_ENTRIES = 1 << 25  # entries of a dense [B, L] product made at once: 128 MiB
_CPU_ROWS = 1024  # most tokens at once on a CPU, so that the product of a usual L stays in its cache
_UNIT_TOLERANCE = 1e-3  # largest error of a decoder row's norm, as left by half precision


class Autoencoder:
    """A trained SAE.  `config` is the content of its `sae.json`."""

    def __init__(self, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
        self.W_enc_LD = tensors["W_enc"]
        self.b_enc_L = tensors["b_enc"]
        self.W_dec_LD = tensors["W_dec"]
        self.b_dec_D = tensors["b_dec"]
        self.b_in_D = tensors.get("b_in", self.b_dec_D)
        self.W_skip_DD = tensors.get("W_skip")
        self.activation_scale_L = tensors.get("activation_scale")
        self.config = config
        self.normalizer = Normalizer(config["normalize"] if config["normalize"] != "dataset" else "none")  # folded
        self.sparsity = make(config["architecture"], config["k"] or 0)
        self.sparsity.load_tensors(tensors)

    @property
    def n_latents(self) -> int:
        return self.W_dec_LD.shape[0]

    @property
    def d_model(self) -> int:
        """Return the width of the reconstructed activations."""
        return self.W_dec_LD.shape[1]

    @property
    def k(self) -> int:
        """Return the intended number of latents per token; 0 if the architecture has none."""
        return self.sparsity.k

    @property
    def layer(self) -> int:
        return int(self.config["site"]["layer"])

    @property
    def hook(self) -> str:
        """Return the hook point that is read."""
        return str(self.config["site"]["hook"])

    @property
    def out_hook(self) -> str:
        """Return the hook point that is reconstructed, at which decoder directions act."""
        return str(self.config["site"].get("out_hook") or self.hook)

    @property
    def is_transcoder(self) -> bool:
        return bool(self.config.get("site", {}).get("out_hook"))

    @property
    def reads_bos(self) -> bool:
        """Return whether it reads contexts that begin with BOS."""
        return bool(self.config.get("bos", {}).get("prepended", True))

    @property
    def reads_markup(self) -> bool:
        """Return whether special tokens that are spelled in a text are read as these tokens."""
        return bool(self.config.get("markup"))

    @property
    def device(self) -> torch.device:
        return self.W_dec_LD.device

    # ---- inference

    def pre_activations(self, x_BD: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the pre-activations before selection, [B, L] float32."""
        return torch.addmm(self.b_enc_L, self._read(x_BD), self.W_enc_LD.T, out=out)

    def pre_activations_of(self, x_BD: Tensor, latents: Tensor) -> Tensor:
        """Return the pre-activations [B, n] of the given latents only."""
        return torch.addmm(self.b_enc_L[latents], self._read(x_BD), self.W_enc_LD[latents].T)

    def _read(self, x_BD: Tensor) -> Tensor:
        """Return the vectors that the encoder's rows are multiplied with, [B, D]."""
        y_BD, _, _ = self.normalizer.apply(x_BD)
        return y_BD - self.b_in_D

    def pieces(self, x_BD: Tensor) -> Iterator[Tensor]:
        """Split `x_BD` into runs of rows for which the dense [B, L] product stays small."""
        rows = max(1, _PRODUCT_ENTRIES // self.n_latents)
        return iter(torch.split(x_BD, min(rows, _CPU_ROWS) if x_BD.device.type == "cpu" else rows))

    def products(self, x_BD: Tensor) -> Iterator[Tensor]:
        """Yield `pre_activations` of the pieces.  Each overwrites the previous one, because fresh memory costs a fifth
        more.
        """
        kept_BL: Tensor | None = None
        for part in self.pieces(x_BD):
            if kept_BL is None:
                kept_BL = torch.empty(len(part), self.n_latents, device=part.device)
            yield self.pre_activations(part, kept_BL[: len(part)])

    def codes(self, x_BD: Tensor) -> Codes:
        """Return the active latents of raw activations `x_BD`, by the inference rule."""
        return self._in_units(Codes.concatenate(
            [self.sparsity.select(pre_BL) for pre_BL in self.products(x_BD)]))

    def codes_and_misses(self, x_BD: Tensor, share: float, normalized: Normalized | None = None) -> tuple[Codes, Codes]:
        """Return `codes` and the near misses, whose values are their pre-activations.

        `normalized` is what the normaliser makes of `x_BD`, if the caller has it.

        A near miss is a silent pair whose pre-activation goes at least 1 − `share` of the way from the latent's bias
        to the threshold.  If latents compete on a token, it goes from 0 to the k-th largest pre-activation.  With a
        share of 0 there are no near misses.
        """
        if self.sparsity.independent:
            threshold = _lowered(self.sparsity.threshold_for().to(x_BD.device), self.b_enc_L, share)
            parts = [self._active_and_near(pairs, share > 0) for pairs in self.pairs_above(x_BD, threshold, normalized)]
        elif share:
            parts = [self._competing(pre_BL, share) for pre_BL in self.products(x_BD)]
        else:
            codes = self.codes(x_BD)
            return codes, codes.where(torch.zeros_like(codes.token_N, dtype=torch.bool))
        active, misses = (Codes.concatenate(list(column)) for column in zip(*parts, strict=True))
        return self._in_units(active), self._in_units(misses)

    def pairs_above(self, x_BD: Tensor, bound: Tensor, normalized: Normalized | None = None) -> Iterator[Codes]:
        """Yield for each piece the pairs whose pre-activation is above the bound, with the pre-activation."""
        kept_BL: Tensor | None = None
        y_BD, _, _ = normalized or self.normalizer.apply(x_BD)
        for part in self.pieces(y_BD - self.b_in_D):
            pairs = self._screen.above(part, bound) if self._screen else None
            if pairs is None:
                if kept_BL is None:
                    kept_BL = torch.empty(len(part), self.n_latents, device=part.device)
                pairs = entries_above(
                    torch.addmm(self.b_enc_L, part, self.W_enc_LD.T, out=kept_BL[: len(part)]), bound)
            yield pairs

    @cached_property
    def _screen(self) -> Screen | None:
        return Screen(self.W_enc_LD, self.b_enc_L) if self.device.type == "cpu" and has_fast_bfloat16() else None

    def _active_and_near(self, pairs: Codes, wanted: bool) -> tuple[Codes, Codes]:
        """Split the pairs above the lowered threshold of an `independent` rule into active ones and, if wanted, near
        misses.
        """
        active, active_N = self.sparsity.select_from_pairs(pairs)
        return active, pairs.where(~active_N if wanted else torch.zeros_like(active_N))

    def _competing(self, pre_BL: Tensor, share: float) -> tuple[Codes, Codes]:
        """Return the active pairs and the near misses of a product, for a rule whose latents compete."""
        active = self.sparsity.select(pre_BL)
        near = entries_above(pre_BL, _lowered(self.sparsity.threshold_for(active), 0.0, share))
        return active, near.where(~_found(active, near))

    def _in_units(self, codes: Codes) -> Codes:
        """Return the codes with values in units of a unit-norm decoder."""
        if self.activation_scale_L is None:
            return codes
        return codes.with_values(codes.value_N * self.activation_scale_L[codes.latent_N])

    def activation_of(self, x_BD: Tensor, latents: Tensor) -> Tensor:
        """Return the activations [B, n] of the given latents only; 0 where a latent is not active.

        If the rule is `independent`, only those rows are computed; TopK needs all of them.
        """
        if self.sparsity.independent:
            pre = self.pre_activations_of(x_BD, latents)
            active = self.sparsity.select(pre, latents)
            out = torch.zeros_like(pre)
            out[active.token_N, active.latent_N] = active.value_N
            return out if self.activation_scale_L is None else out * self.activation_scale_L[latents]
        codes = self.codes(x_BD)
        dense_BL = torch.zeros(len(x_BD), self.n_latents, device=x_BD.device)
        dense_BL[codes.token_N, codes.latent_N] = codes.value_N
        return dense_BL[:, latents]

    def scale(self, x_BD: Tensor) -> Tensor:
        """Return the length in raw output units of one unit of activation on each token, [B, 1]."""
        return torch.ones_like(x_BD[:, :1]) if self.is_transcoder else self.normalizer.apply(x_BD)[1]

    def decode(self, codes: Codes, x_BD: Tensor, normalized: Normalized | None = None) -> Tensor:
        """Return the raw reconstruction [B, D] of `codes`, with the scale and shift of the tokens `x_BD`.

        `normalized` is what the normaliser makes of `x_BD`, if the caller has it.
        """
        out_BD = codes.decode(self.W_dec_LD) + self.b_dec_D
        if self.is_transcoder:
            return out_BD if self.W_skip_DD is None else out_BD + x_BD @ self.W_skip_DD
        _, scale_B1, shift_B1 = normalized or self.normalizer.apply(x_BD)
        return out_BD * scale_B1 + shift_B1

    def reconstruct(self, x_BD: Tensor) -> Tensor:
        return self.decode(self.codes(x_BD), x_BD)

    def to(self, device: torch.device | str) -> Autoencoder:
        """Return a copy on another device."""
        tensors = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return Autoencoder(tensors, self.config)

    # ---- disk

    def tensors(self) -> dict[str, Tensor]:
        out = {"W_enc": self.W_enc_LD, "b_enc": self.b_enc_L, "W_dec": self.W_dec_LD, "b_dec": self.b_dec_D}
        if self.b_in_D is not self.b_dec_D:
            out["b_in"] = self.b_in_D
        optional = {"W_skip": self.W_skip_DD, "activation_scale": self.activation_scale_L}
        return out | {name: t for name, t in optional.items() if t is not None} | self.sparsity.tensors()

    def save(self, folder: Path) -> None:
        """Write `sae.safetensors`, then `sae.json`: an SAE exists once its `sae.json` does."""
        with atomic_write(folder / "sae.safetensors") as temporary:
            save_file({name: t.detach().float().cpu().contiguous() for name, t in self.tensors().items()}, temporary)
        write_json(folder / "sae.json", self.config)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Autoencoder:
        """Read an artefact folder.  Raises UserError (field `sae`) if it is missing or inconsistent."""
        config = read_config(folder)
        if config.get("weights") == "none":
            raise UserError(f"sae: {config.get('id')} is an imported dashboard without weights", "sae")
        _check_config(config, folder)
        try:
            tensors = load_file(folder / "sae.safetensors", device=str(device))
        except Exception as error:  # safetensors raises its own kinds for truncated or foreign files
            raise UserError(f"sae: {folder / 'sae.safetensors'} cannot be read: {error}", "sae") from None
        _check_tensors(tensors, config, folder)
        # Copied, because tensors in the file are not aligned, and gathering rows from such takes five times as long.
        return cls({name: tensor.float().clone() for name, tensor in tensors.items()}, config)


def _lowered(threshold: Tensor, bias: Tensor | float, share: float) -> Tensor:
    """Lower the threshold by `share` of the distance from the bias to it."""
    return threshold - share * (threshold - bias).clamp(min=0.0)


def _found(some: Codes, among: Codes) -> Tensor:
    """Return which pairs of `among`, sorted by token and latent, are pairs of `some`."""
    found_N = torch.zeros_like(among.token_N, dtype=torch.bool)
    if len(found_N):
        flat_N, wanted_M = (codes.token_N * codes.n_latents + codes.latent_N for codes in (among, some))
        index_M = torch.searchsorted(flat_N, wanted_M).clamp(max=len(flat_N) - 1)
        found_N[index_M[flat_N[index_M] == wanted_M]] = True
    return found_N


def _check_config(config: dict[str, Any], folder: Path) -> None:
    """Raise UserError (field `sae`) if `config` lacks what inference needs, or asks for what this program cannot do."""
    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise UserError(f"sae: {folder}: {what}", "sae")

    for name, known in (("architecture", list(REGISTRY)), ("normalize", KINDS)):
        demand(config.get(name) in known, f"{name} is {config.get(name)!r}, known here are {', '.join(known)}")
    sizes = ["n_latents", "d_model"] + ["k"] * REGISTRY[config["architecture"]].has_k + ["d_in"] * ("d_in" in config)
    for name in sizes:
        value = config.get(name)
        demand(isinstance(value, int) and value > 0, f"{name} should be a positive whole number, found {value!r}")
    demand((config.get("k") or 0) <= config["n_latents"],
           f"k is {config.get('k')}, more than its {config['n_latents']} latents")
    site = config.get("site")
    demand(isinstance(site, dict) and isinstance(site.get("layer"), int) and isinstance(site.get("hook"), str),
           "site names no layer and hook point of the language model")
    demand(config.get("weight_processing") == "raw",
           f"made for {config.get('weight_processing')} weights, but this program reads raw ones; its latents would "
           "have no meaning here")


def _check_tensors(tensors: dict[str, Tensor], config: dict[str, Any], folder: Path) -> None:
    """Raise UserError (field `sae`) if a tensor is missing, misshapen or not finite, or the decoder is not of unit
    norm.
    """
    L, D = config["n_latents"], config["d_model"]
    d_in = config.get("d_in", D)

    expected: Shapes = {"W_enc": {(L, d_in)}, "b_enc": {(L,)}, "W_dec": {(L, D)}, "b_dec": {(D,)}}
    optional: Shapes = {"b_in": {(d_in,)}, "W_skip": {(d_in, D)}, "activation_scale": {(L,)}}
    expected |= {name: shapes for name, shapes in optional.items() if name in tensors}
    if config["site"].get("out_hook"):
        expected["b_in"] = optional["b_in"]
    expected |= REGISTRY[config["architecture"]].tensor_shapes(L)
    for name, shapes in expected.items():
        tensor = tensors.get(name)
        if tensor is None or tuple(tensor.shape) not in shapes or not tensor.is_floating_point():
            found = "nothing" if tensor is None else f"{tuple(tensor.shape)} of {tensor.dtype}"
            wanted = " or ".join(map(str, sorted(shapes)))
            raise UserError(f"sae: {folder}: {name} should be {wanted}, found {found}", "sae")
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"sae: {folder}: {name} holds values that are not finite", "sae")
    if float((tensors["W_dec"].float().norm(dim=1) - 1).abs().max()) > _UNIT_TOLERANCE:
        raise UserError(f"sae: {folder}: the rows of W_dec should have unit norm", "sae")
