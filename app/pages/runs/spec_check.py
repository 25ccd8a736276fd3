"""Checks of a run before it is queued, which load nothing.

The spec's own rules are in `sae.specs.registry`.  Here the model's config, the text's path and the SAEs are looked
up, so that a mistake is refused at once, at its field, and not minutes later in a log.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from app.library.catalog import Catalog
from app.library.explanation_mirror import write_people
from app.library.explanations import explained_latents, named_latents
from sae.data.texts import STDLIB, find_text
from sae.errors import UserError
from sae.evaluation.probe_sets import check_labels
from sae.explain.checks import check_settings
from sae.lm.model_info import find_model, hub_message, hub_reachable
from sae.runs.evaluate import check_pieces
from sae.runs.kept import check_layers, list_kept
from sae.specs.registry import (
    ActivationsSpec,
    CompareSpec,
    EvaluateSpec,
    ExplainSpec,
    IndexSpec,
    RunSpec,
    SweepSpec,
    TrainSpec,
    located,
    parse_spec,
)
from sae.workspace.paths import check_name, typed_path


def check_spec(kind: str, values: dict[str, Any], catalog: Catalog) -> RunSpec:
    """Return the checked spec.  Raises UserError, whose `field` names the setting at fault."""
    present = {name: catalog.present_id(str(values[name])) for name in ("sae", "a", "b") if values.get(name)}
    spec = located(parse_spec(kind, values | present))
    if isinstance(spec, TrainSpec | SweepSpec):
        _check_training(spec, catalog)
    elif isinstance(spec, ActivationsSpec):
        check_layers(spec)
    elif isinstance(spec, IndexSpec | EvaluateSpec):
        _check_sae("sae", spec.sae, catalog)
        if isinstance(spec, EvaluateSpec):
            check_pieces(spec)
            if spec.labels:
                check_labels(typed_path(spec.labels, "labels"))
    elif isinstance(spec, CompareSpec):
        _check_sae("a", spec.a, catalog)
        _check_sae("b", spec.b, catalog)
    elif isinstance(spec, ExplainSpec):
        spec = _checked_explain(spec, catalog)
    if getattr(spec, "map", "") == "umap" and find_spec("umap") is None:
        raise UserError("map: UMAP is not installed on this server; choose pca", "map")
    _check_text(spec)
    return spec


def _check_training(spec: TrainSpec | SweepSpec, catalog: Catalog) -> None:
    check_layers(spec)
    info = find_model(spec.model)
    names = [kept.name for kept in list_kept(catalog.workspace)]
    if spec.activations and spec.activations not in names:
        raise UserError(f"activations: there are no finished activations {spec.activations!r} in this workspace (there "
                        f"are: {', '.join(names) or 'none yet'})", "activations")
    if spec.name:
        check_name(spec.name)
        if isinstance(spec, TrainSpec) and catalog.get_sae(f"{info.id}/{spec.name}") is not None:
            raise UserError(f"name: there is an SAE {info.id}/{spec.name} already; choose another name", "name")


def _check_sae(field: str, sae_id: str, catalog: Catalog, weights: bool = True) -> None:
    sae = catalog.get_sae(sae_id)
    if sae is None:
        known = ", ".join(one.id for one in catalog.list_saes()[:10]) or "none yet"
        raise UserError(f"{field}: there is no SAE {sae_id} here (there are: {known})", field)
    if weights and sae.weightless:
        raise UserError(f"{field}: {sae_id} {sae.why_weightless}", field)


def _checked_explain(spec: ExplainSpec, catalog: Catalog) -> ExplainSpec:
    """Return the spec with the latents that people have starred, tagged or left unexplained as numbers.

    The explanations of people are written to the SAE's folder for a run that scores them.

    Whether there is an index is checked when the run begins: a run that makes it may wait in the queue before.
    """
    _check_sae("sae", spec.sae, catalog, weights=False)
    sae = catalog.get_sae(spec.sae)
    assert sae is not None
    with catalog.sessions() as db:
        spec = spec.model_copy(update={"latents": named_latents(db, sae, spec.latents)})
        if spec.explainer == "existing":
            if not explained_latents(db, sae.id):
                raise UserError(f"explainer: {sae.id} has no explanations to score", "explainer")
            write_people(db, catalog.workspace, sae.id)
    check_settings(spec, weightless=sae.weightless)
    return spec


def _check_text(spec: RunSpec) -> None:
    """Raise UserError (field `text`) where the text is a path without a file, or a data set that cannot be fetched."""
    text = getattr(spec, "text", "")
    if text in ("", STDLIB):
        return
    if find_text(text, spec.text_column, spec.text_split).kind == "dataset" and not hub_reachable():  # type: ignore[union-attr]
        raise UserError(hub_message("text", text, ConnectionError()), "text")
