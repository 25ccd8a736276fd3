"""Creation of run folders."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from sae.errors import UserError
from sae.lm.model_info import find_model
from sae.runs import evaluate, explain, import_sae, kept
from sae.runs.folder import RunFolder
from sae.specs.registry import (
    ActivationsSpec,
    EvaluateSpec,
    ExplainSpec,
    ImportSpec,
    SweepSpec,
    TrainSpec,
    located,
    parse_spec,
)
from sae.workspace.paths import Workspace


def _of_items(spec: TrainSpec | SweepSpec) -> TrainSpec | SweepSpec:
    """Return the spec of training on vectors of anything: their folder is the text, too, and there is one layer."""
    if spec.out_site:
        raise UserError("out_site: a transcoder needs a language model, and this is a folder of vectors", "out_site")
    own = {"text": os.path.abspath(spec.model), "layer": 0, "site": "hook_resid_post", "bos": True,
           "train_on_bos": False, "markup": False, **({"layers": ()} if isinstance(spec, SweepSpec) else {})}
    return spec.model_copy(update=own)


def start(kind: str, values: dict[str, Any], workspace: Workspace) -> RunFolder:
    """Check a spec and make a run folder for it.  Raises UserError."""
    spec = located(parse_spec(kind, values))
    if isinstance(spec, TrainSpec | SweepSpec | ActivationsSpec):
        if find_model(spec.model).items:
            if isinstance(spec, ActivationsSpec):
                raise UserError(f"model: {spec.model} holds vectors, which are on the disk already", "model")
            spec = _of_items(spec)
        kept.check_layers(spec)
    if getattr(spec, "map", "pca") == "umap" and find_spec("umap") is None:
        raise UserError("map: UMAP is not installed here; pip install 'saescope[umap]', or choose pca", "map")
    if isinstance(spec, ImportSpec):
        import_sae.look(spec, workspace)
    if isinstance(spec, EvaluateSpec):
        evaluate.check_pieces(spec)
    if isinstance(spec, ExplainSpec):
        explain.check_explain(spec, workspace)
    folder = RunFolder(workspace.run(workspace.new_run_id(kind)))
    folder.create(kind, spec.model_dump(mode="json"))  # type: ignore[arg-type]
    return folder
