"""The estimate of a run that measures an SAE, before it starts.

`sae.evaluation.registry` has the time of each measure for the demo's SAE on two cores.  It is scaled by the work for a
token of this SAE and its model, and by the speed of the measures that were made in this workspace.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.library.catalog import Catalog
from app.library.evaluations import results_of
from app.render.numbers import duration
from app.render.numbers import size as byte_size
from sae.errors import UserError
from sae.evaluation.probe_sets import PACKAGE
from sae.evaluation.registry import ENTRIES
from sae.lm.model_info import DEMO, ModelInfo, find_model
from sae.specs.registry import EvaluateSpec, parse_spec
from sae.workspace.paths import typed_path

_DEMO_LATENTS, _DEMO_TOKENS = 4096, 100_000
_START_S = 20  # loading the libraries and the model, reading text
_PROGRAM_BYTES, _WORK_BYTES = 9e8, 8e8  # the interpreter with torch; logits and products of one batch
_PROBE_SETS_S = 1_500  # the 113 data sets of sae-probes with the demo's SAE
_LOOKED_AT = 20  # SAEs whose results tell the speed


def evaluate_cost(values: dict[str, Any], catalog: Catalog) -> str | None:
    """Return the estimate for the settings of a form in one sentence or two; None without an SAE."""
    try:
        spec = parse_spec("evaluate", values)
        assert isinstance(spec, EvaluateSpec)
        sae = catalog.get_sae(spec.sae)
        if sae is None:
            return None
        name = str((sae.config.get("model") or {}).get("name", ""))
        if name != DEMO and not typed_path(name, "model").is_dir():  # a hub name is not looked up while somebody types
            return "No estimate: the model is not on this machine, so its size is not known yet."
        info = find_model(name)
    except UserError as error:
        return str(error)
    work = token_work(sae.n_latents, info) / token_work(_DEMO_LATENTS, find_model(DEMO))
    speed, known = machine_speed(catalog)
    seconds = sum(_seconds(name, spec) for name in spec.measures) * spec.seeds * work * speed
    spread = 1.5 if known else 2.5
    memory = _PROGRAM_BYTES + _WORK_BYTES + 4 * (
        12 * info.n_layers * info.d_model**2 + 2 * info.d_vocab * info.d_model + 4 * sae.n_latents * info.d_model)
    basis = "from the measures made in this workspace" if known else "from the demo's SAE on two cores"
    return (f"About {duration(_START_S + seconds / spread)} to {duration(_START_S + seconds * spread)}, and "
            f"{byte_size(memory)} of memory. Rough: {basis}.")


def token_work(n_latents: int, info: ModelInfo) -> float:
    """Return the floating-point operations for a token, through the model and the SAE."""
    return 24 * info.n_layers * info.d_model**2 + 2 * info.d_model * info.d_vocab + 4 * n_latents * info.d_model


def _seconds(name: str, spec: EvaluateSpec) -> float:
    if name == "probing" and spec.labels == PACKAGE:
        return _PROBE_SETS_S
    return ENTRIES[name].seconds * (spec.eval_tokens / _DEMO_TOKENS if ENTRIES[name].sizes else 1.0)


def machine_speed(catalog: Catalog) -> tuple[float, bool]:
    """Return the factor by which measures of the embedded model took longer here than listed, and whether any did."""
    saes = [sae for sae in catalog.list_saes() if sae.model == DEMO][:_LOOKED_AT]
    factors = _factors([catalog.workspace.sae(sae.id) for sae in saes])
    return (statistics.median(factors), True) if factors else (1.0, False)


def _factors(folders: Sequence[Path]) -> list[float]:
    return [result.seconds / (ENTRIES[result.measure].seconds * max(1, len(result.seeds)))
            for folder in folders for result in results_of(folder)
            if result.seconds > 1 and result.measure in ENTRIES and not result.labels]
