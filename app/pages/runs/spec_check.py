"""What must hold before a run is queued, checked without loading anything.

The spec's own rules are in `sae.specs.registry`; here the model's config file is read, so that a wrong
name, layer or context length is refused at once, at its field, and not minutes later in a log.
"""

from __future__ import annotations

from typing import Any

from app.library.catalog import Catalog
from sae.errors import UserError
from sae.lm.model_info import check_layer, find_model
from sae.specs.registry import EvaluateSpec, IndexSpec, RunSpec, SweepSpec, TrainSpec, located, parse_spec
from sae.workspace.paths import check_name


def check_spec(kind: str, values: dict[str, Any], catalog: Catalog) -> RunSpec:
    """The checked spec.  Raises UserError, whose `field` names the setting at fault."""
    spec = located(parse_spec(kind, values))
    if isinstance(spec, TrainSpec | SweepSpec):
        info = find_model(spec.model)
        check_layer(info, spec.layer, spec.context_length)
        if spec.name:
            check_name(spec.name)
            if isinstance(spec, TrainSpec) and catalog.get_sae(f"{info.id}/{spec.name}") is not None:
                raise UserError(f"name: there is an SAE {info.id}/{spec.name} already; choose another name", "name")
    elif isinstance(spec, IndexSpec | EvaluateSpec) and catalog.get_sae(spec.sae) is None:
        known = ", ".join(sae.id for sae in catalog.list_saes()[:10]) or "none yet"
        raise UserError(f"sae: there is no SAE {spec.sae} here (there are: {known})", "sae")
    return spec
