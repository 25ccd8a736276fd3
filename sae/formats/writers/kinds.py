"""The kinds of exports of an SAE and of its build.  No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae.errors import UserError
from sae.formats.writers import (
    neuronpedia,
    parquet,
    saedashboard,
)
from sae.formats.writers import (
    saelens as to_saelens,
)
from sae.formats.writers import (
    saescope as artefact,
)
from sae.formats.writers.archive import Member
from sae.formats.writers.dashboard_rows import Exporter
from sae.formats.writers.neuronpedia import Explanation
from sae.store.build import Build


@dataclass(frozen=True)
class Kind:
    """A kind of export."""

    name: str  # as shown on pages
    description: str
    of: str  # "weights" or "build"


KINDS = {
    "saelens": Kind("SAELens", "cfg.json and sae_weights.safetensors, for SAE.load_from_disk", "weights"),
    "saescope": Kind("saescope", "sae.json and sae.safetensors, for another saescope", "weights"),
    "parquet": Kind("Parquet", "every table of the build as a Parquet file", "build"),
    "neuronpedia": Kind("Neuronpedia", "export tree v1/model/source with features, activations and labels", "build"),
    "saedashboard": Kind("SAEDashboard", "batch-*.json, 128 latents each", "build"),
}


def members_of(
    kind: str, folder: Path, config: Mapping[str, Any], build: Build | None,
    labels: Mapping[int, Sequence[Explanation]] | None = None,
) -> Iterator[Member]:
    """Return the files of an export of the SAE in `folder`.  Raises UserError (field `format`, `sae` or `build`)."""
    check_kind(kind, config, has_build=build is not None)
    if kind == "saelens":
        return to_saelens.members(folder, config)
    if kind == "saescope":
        return artefact.members(folder, config)
    assert build is not None
    if kind == "parquet":
        return parquet.members(build)
    exporter = Exporter(build, config)
    return saedashboard.members(exporter) if kind == "saedashboard" else neuronpedia.members(exporter, labels)


def check_kind(kind: str, config: Mapping[str, Any], has_build: bool) -> None:
    """Raise UserError (field `format`, `sae` or `build`) if the SAE cannot be exported as this kind."""
    if kind not in KINDS:
        raise UserError(f"format: {kind!r} is not one of {', '.join(KINDS)}", "format")
    if KINDS[kind].of == "weights":
        if config.get("weights") == "none":
            raise UserError(f"sae: {config['id']} has no weights here; only its dashboard can be exported", "sae")
        if kind == "saelens":
            to_saelens.saelens_config(config)  # raises if SAELens cannot express the SAE
    elif not has_build:
        raise UserError(f"build: {config['id']} has no index yet, which a {KINDS[kind].name} export needs; "
                        f"make one with: saescope index --sae {config['id']}", "build")
