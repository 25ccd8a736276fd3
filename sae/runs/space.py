"""The disk space that a run needs, estimated before it starts, so that it does not fail at its end."""

from __future__ import annotations

from sae.autoencoder.config import read_config
from sae.errors import UserError
from sae.lm.model_info import find_model
from sae.runs.folder import RunFolder
from sae.runs.names import kept_name
from sae.runs.parts import parts_folder
from sae.specs.registry import (
    ActivationsSpec,
    EvaluateSpec,
    IndexSpec,
    PartSpec,
    SweepSpec,
    TrainSpec,
    n_parts,
    parse_spec,
)
from sae.specs.training import IndexSettings
from sae.store.schema import BANDS
from sae.workspace.disk import need_space
from sae.workspace.paths import Workspace

# Measured on builds of the embedded model; a build is smaller where latents share their contexts' text.
_BYTES_PER_LATENT = 4_000
_BYTES_PER_CONTEXT = 500
_CHECKPOINT_BYTES = 2 * 12  # per weight: the weight and Adam's two moments in float32, in the last file and the next
_ARTEFACT_BYTES = 4  # per weight


def bytes_needed(spec: object, workspace: Workspace) -> float:
    """Return about how many bytes a run writes, without its text; 0 for a kind that writes little."""
    if isinstance(spec, TrainSpec | SweepSpec):
        d_model = find_model(spec.model).d_model
        n_latents = [member.n_latents for member in spec.members()]
        weights = sum(n_latents) * 2 * d_model * (_CHECKPOINT_BYTES + _ARTEFACT_BYTES)
        return weights + _kept_bytes(spec) + (sum(build_bytes(spec, n) for n in n_latents) if spec.index else 0)
    if isinstance(spec, ActivationsSpec):
        return _kept_bytes(spec)
    if isinstance(spec, PartSpec):
        parent, values = RunFolder(workspace.run(spec.run)).spec()
        return bytes_needed(parse_spec(parent, values), workspace) / n_parts(parent, values)
    if isinstance(spec, IndexSpec):
        return build_bytes(spec, int(read_config(workspace.sae(spec.sae))["n_latents"]))
    return 0


def _kept_bytes(spec: TrainSpec | SweepSpec | ActivationsSpec) -> float:
    """Return the bytes of the activations that a run keeps.  Each site counts as wide as the residual stream."""
    if isinstance(spec, ActivationsSpec):
        return 2.0 * spec.tokens * len(spec.hooks) * find_model(spec.model).d_model
    if len(spec.all_layers) == 1 or spec.activations:
        return 0.0
    n_sites = len(spec.all_layers) * (2 if spec.out_site else 1)
    return 2.0 * spec.tokens / spec.reuse * n_sites * find_model(spec.model).d_model


def build_bytes(settings: IndexSettings, n_latents: int) -> float:
    """Return about how large a build with its page file and its checkpoint is, in bytes."""
    contexts = settings.top_contexts + len(BANDS) * settings.band_contexts + settings.near_misses
    return 2.0 * n_latents * (_BYTES_PER_LATENT + _BYTES_PER_CONTEXT * contexts)


def check_space(spec: object, folder: RunFolder, workspace: Workspace) -> None:
    """Raise UserError (field `disk`) if the disk lacks the space that the run still needs.

    What the run has written already, such as its checkpoint, counts as there.
    """
    merges = isinstance(spec, SweepSpec) and parts_folder(folder).is_dir()  # its parts have written what it writes
    if isinstance(spec, EvaluateSpec) or merges:
        return
    try:
        needed = bytes_needed(spec, workspace)
    except (UserError, KeyError, OSError):  # the run itself says what is wrong with its model or its SAE
        return
    kept = [workspace.activations(kept_name(spec, folder))] if isinstance(spec, ActivationsSpec) else []
    there = sum(file.stat().st_size for place in (folder.checkpoints, *kept) for file in place.rglob("*")
                if file.is_file())
    need_space(folder.path, max(0.0, needed - there), "this run")
