"""The run that keeps activations on disk, and the kept activations that a training reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sae.lm.model_info import check_layer, find_model
from sae.runs.folder import RunFolder
from sae.runs.names import kept_name
from sae.runs.progress import Reporter
from sae.runs.steps import open_model_and_text
from sae.specs.registry import ActivationsSpec, SweepSpec, TrainSpec
from sae.workspace.paths import Workspace

if TYPE_CHECKING:
    from sae.data.corpus import Corpus
    from sae.data.kept import KeptActivations, Plan
    from sae.lm.bridge import LanguageModel

PHASES = {"text": 5.0, "activations": 95.0}


def check_layers(spec: TrainSpec | SweepSpec | ActivationsSpec) -> None:
    """Raise UserError if the model lacks one of the layers, or cannot read contexts of this length."""
    info = find_model(spec.model)
    for layer in spec.layers if isinstance(spec, ActivationsSpec) else spec.all_layers:
        check_layer(info, layer, spec.context_length)


def run_activations(
    spec: ActivationsSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter
) -> dict[str, Any]:
    """Keep the activations and return the run's result: their name, their size and their sites."""
    from sae.data.kept import keep, plan_kept

    check_layers(spec)
    lm, corpus = open_model_and_text(
        spec.model, spec.device, spec.text, spec.text_column, spec.text_split, spec.context_length, workspace, reporter,
        spec.hooks, text_tokens=spec.text_tokens, bos=spec.bos, markup=spec.markup)
    plan = plan_kept(lm, corpus, spec.hooks, spec.tokens)
    name = kept_name(spec, folder)
    reporter.begin("activations", plan.tokens, message=size_words(plan))
    keep(lm, corpus, plan, workspace.activations(name), reporter.update)
    return {"activations": name, "bytes": plan.n_bytes, "tokens": plan.tokens, "sites": list(plan.hooks)}


def keeps_first(values: dict[str, Any]) -> bool:
    """Return whether a sweep with these settings keeps the activations of its sites before it trains."""
    return len(values.get("layers") or ()) > 1 and not values.get("activations")


def kept_for(
    spec: TrainSpec | SweepSpec, hooks: Sequence[str], lm: LanguageModel, corpus: Corpus, folder: RunFolder,
    workspace: Workspace, reporter: Reporter,
) -> KeptActivations | None:
    """Return the activations at `hooks` that a training reads: those it names, those of its several sites, or None.

    Those of several sites are made here, in the folder of the checkpoints, which is removed when the run has
    succeeded.  Raises UserError (field `activations`).
    """
    from sae.data.kept import KeptActivations, keep, plan_kept

    if spec.activations:
        return KeptActivations(workspace.activations(spec.activations), corpus)
    if len(spec.all_layers) == 1:
        return None
    plan = plan_kept(lm, corpus, list(dict.fromkeys(hooks)), -(-spec.tokens // spec.reuse))
    place = folder.checkpoints / "activations"
    reporter.begin("activations", plan.tokens, message=size_words(plan))
    keep(lm, corpus, plan, place, reporter.update)
    return KeptActivations(place, corpus)


@dataclass(frozen=True)
class Kept:
    """Finished activations of the workspace, as their `meta.json` describes them."""

    name: str
    model: str
    hooks: tuple[str, ...]
    tokens: int
    context_length: int
    n_bytes: int


def list_kept(workspace: Workspace) -> list[Kept]:
    """Return the finished activations of the workspace by name, without those that cannot be read."""
    found = []
    for path in sorted((workspace.root / "activations").glob("*/meta.json")):
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
            found.append(Kept(path.parent.name, meta["model"], tuple(meta["hooks"]), meta["tokens"],
                              meta["context_length"], 2 * meta["tokens"] * sum(meta["widths"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def size_words(plan: Plan) -> str:
    """Return the size of kept activations for a person."""
    size = f"{plan.n_bytes / 1e9:,.1f} GB" if plan.n_bytes >= 1e9 else f"{plan.n_bytes / 1e6:,.0f} MB"
    return f"{size} on disk for {len(plan.hooks)} site{'s' if len(plan.hooks) > 1 else ''}"
