"""Creation of run folders."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from sae.errors import UserError
from sae.runs import explain, import_sae, kept
from sae.runs.folder import RunFolder
from sae.specs.registry import (
    ActivationsSpec,
    ExplainSpec,
    ImportSpec,
    SweepSpec,
    TrainSpec,
    located,
    parse_spec,
)
from sae.workspace.paths import Workspace, new_id


def start(kind: str, values: dict[str, Any], workspace: Workspace) -> RunFolder:
    """Check a spec and make a run folder for it.  Raises UserError."""
    spec = located(parse_spec(kind, values))
    if isinstance(spec, TrainSpec | SweepSpec | ActivationsSpec):
        kept.check_layers(spec)
    if getattr(spec, "map", "pca") == "umap" and find_spec("umap") is None:
        raise UserError("map: UMAP is not installed here; pip install 'saescope[umap]', or choose pca", "map")
    if isinstance(spec, ImportSpec):
        import_sae.look(spec, workspace)
    if isinstance(spec, ExplainSpec):
        explain.check_explain(spec, workspace)
    folder = RunFolder(workspace.run(new_id(kind)))
    folder.create(kind, spec.model_dump(mode="json"))  # type: ignore[arg-type]
    return folder
