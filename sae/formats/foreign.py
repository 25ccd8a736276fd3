"""What a reader of a foreign format hands back: weights as that library computes with them, and the facts.

    y     = norm(x · s)                        or (x − mean) · whiten, for a whitened one
    pre   = (y − c) · W_encᵀ + b_enc           c = b_dec where the library subtracts it, else 0
    f     = select(pre), or select(pre · ‖W_dec row‖) for `select_by_norm`
    x_hat = norm⁻¹(f · W_dec + b_dec) / s      plus x · W_skip

`sae.formats.fold` turns this into an artefact's tensors.  Matrices are latent-major whatever the
file had.  Shapes: L latents, D width of what is reconstructed, d_in of what is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sae.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Whitening:
    """y = (x − mean) · matrix, undone by `inverse` [D, D]."""

    mean_D: Tensor
    matrix_DD: Tensor
    inverse_DD: Tensor


@dataclass
class Weights:
    """An SAE's tensors, float32, and how its library uses them.  `architecture` is a key of
    `sae.autoencoder.architectures.REGISTRY`; `threshold` has one element or one a latent."""

    W_enc_LD: Tensor
    b_enc_L: Tensor  # of a gated SAE: the gate's bias
    W_dec_LD: Tensor
    b_dec_D: Tensor
    architecture: str
    k: int = 0
    threshold: Tensor | None = None
    r_mag_L: Tensor | None = None
    b_mag_L: Tensor | None = None
    W_skip_DD: Tensor | None = None  # [d_in, D]
    centred: bool = True  # whether b_dec is subtracted from the input
    transcoder: bool = False
    normalize: str = "none"  # a kind of `sae.autoencoder.normalization`
    input_scale: float = 1.0  # s
    whitening: Whitening | None = None
    select_by_norm: bool = False


@dataclass
class Foreign:
    """A foreign SAE.  What the file does not say is empty, and named in `asks` where it is needed."""

    format: str  # as shown: "SAELens 6.54.12"
    weights: Weights
    model: str = ""
    hook: str = ""
    out_hook: str = ""
    bos: bool | None = None  # whether it was trained on contexts that begin with BOS
    context_length: int = 0
    trained_as: str = ""  # the architecture it was trained as, where inference is another
    calibrate: bool = False  # its θ was never set
    claims: dict[str, float] = field(default_factory=dict)  # metrics that the file states: l0, fvu
    details: dict[str, Any] = field(default_factory=dict)  # further facts worth keeping
    notes: list[str] = field(default_factory=list)  # what was done or assumed, a sentence each
    asks: dict[str, str] = field(default_factory=dict)  # setting -> why it has to be given
    dtype: str = ""  # on disk
    files: list[str] = field(default_factory=list)


class MissingFacts(UserError):
    """The file does not say all that is needed.  `asks`: setting -> what is asked; `given`: what it does say."""

    def __init__(self, asks: dict[str, str], foreign: Foreign) -> None:
        options = ", ".join(f"--{name.replace('_', '-')} ({why})" for name, why in asks.items())
        super().__init__(f"source: {foreign.format} does not say all that is needed; give {options}", next(iter(asks)))
        self.asks, self.foreign = asks, foreign
