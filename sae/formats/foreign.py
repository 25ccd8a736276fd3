"""The result of a reader: weights as the foreign library uses them, and facts about the SAE.

    y     = norm(x · s)                        or (x − mean) · whiten, with whitening
    pre   = (y − c) · W_encᵀ + b_enc           c = b_dec if the library subtracts it, else 0
    f     = select(pre), or select(pre · ‖W_dec row‖) for `select_by_norm`
    x_hat = norm⁻¹(f · W_dec + b_dec) / s      plus x · W_skip; divided by `output_scale` instead where there is one

`sae.formats.fold` turns this into an artefact's tensors.  Matrices are always latent-major, whatever the
file's orientation.  Shapes: L latents, D width of the target, d_in width of the input.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sae.errors import UserError
from sae.formats.foreign_names import site

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Whitening:
    """The whitening y = (x − mean) · matrix, and the inverse [D, D] of the matrix."""

    mean_D: Tensor
    matrix_DD: Tensor
    inverse_DD: Tensor


@dataclass
class Weights:
    """An SAE's float32 tensors, and the way its library uses them.

    `architecture` is a key of `sae.autoencoder.architectures.REGISTRY`.  `threshold` has one element in total or
    one per latent.
    """

    W_enc_LD: Tensor
    b_enc_L: Tensor  # the gate's bias for a gated SAE
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
    normalize: str = "none"  # a name from `sae.autoencoder.normalization`
    input_scale: float = 1.0  # s
    output_scale: float | None = None  # of a transcoder, if its target has another scale than its input
    whitening: Whitening | None = None
    select_by_norm: bool = False


@dataclass
class Foreign:
    """A foreign SAE.  Facts that the file does not state are empty, and listed in `asks` if they are needed."""

    format: str  # name to show, such as "SAELens 6.54.12"
    weights: Weights
    model: str = ""
    hook: str = ""
    out_hook: str = ""
    bos: bool | None = None  # whether it was trained on contexts that begin with BOS
    context_length: int = 0
    trained_as: str = ""  # the architecture in training, which may differ from the one at inference
    calibrate: bool = False  # θ was never set and has to be calibrated
    claims: dict[str, float] = field(default_factory=dict)  # metrics that the file states: l0, fvu
    details: dict[str, Any] = field(default_factory=dict)  # further facts worth keeping
    notes: list[str] = field(default_factory=list)  # conversions and assumptions
    asks: dict[str, str] = field(default_factory=dict)  # setting that the user has to give -> its meaning
    dtype: str = ""  # dtype on disk
    files: list[str] = field(default_factory=list)
    unknown_sites: dict[str, str] = field(default_factory=dict)  # setting -> the file's name of a site that is not here

    def name_sites(self, reads: str, writes: str = "", *, module_reads: bool = False) -> None:
        """Set hook and out_hook from the file's names of sites, and keep the names that are unknown here.

        A module's path means its output, or for `reads` its input if `module_reads` is set.
        """
        self.hook, self.out_hook = site(reads, reads=module_reads), site(writes)
        named = {"hook": (reads, self.hook), "out_hook": (writes, self.out_hook)}
        self.unknown_sites = {setting: name[:80] for setting, (name, known) in named.items() if name and not known}

    def set_theta(self, theta: float | None) -> None:
        """Set the one θ of a BatchTopK; without one it is calibrated after the import."""
        self.weights.threshold = self.weights.b_enc_L.new_tensor([max(0.0, theta or 0.0)])
        if theta is None or theta < 0:
            self.calibrate = True
            self.notes.append("the file has no threshold, so it is calibrated until the mean L0 is k")


class MissingFacts(UserError):
    """An error for a file that does not state everything needed.

    `asks` maps each missing setting to its meaning, and `foreign` holds the facts that were found.
    """

    def __init__(self, asks: dict[str, str], foreign: Foreign) -> None:
        options = ", ".join(f"--{name.replace('_', '-')} ({why})" for name, why in asks.items())
        super().__init__(f"source: {foreign.format} does not state everything needed; give {options}", next(iter(asks)))
        self.asks, self.foreign = asks, foreign
