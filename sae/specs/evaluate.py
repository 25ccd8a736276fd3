"""The settings of a run that measures an SAE.  No torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from sae.faults import DEVICE
from sae.specs.training import DEVICES, BaseSpec, listed, setting

MeasureName = Literal[
    "core", "probing", "concepts", "n2g", "ablation", "recovery", "stability", "splitting", "absorption", "meta_sae",
    "explained"]
MEASURES: tuple[str, ...] = get_args(MeasureName)  # in the order in which a run makes them


def _measures(value: Any) -> Any:
    """Split a string at its commas; `all` stands for every measure."""
    names = listed(value)
    return list(MEASURES) if "all" in names else sorted(
        names, key=lambda name: MEASURES.index(name) if name in MEASURES else len(MEASURES))


_Measures = Annotated[tuple[MeasureName, ...], BeforeValidator(_measures), Field(min_length=1)]


class EvaluateSpec(BaseSpec):
    """An evaluation of an existing SAE on held-out text."""

    sae: str = setting(..., "The SAE, as <model>/<name>", group="what", pattern=r"^[^/]+/[^/]+$")
    measures: _Measures = setting(
        ("core",), f"Measures, separated by commas: {', '.join(MEASURES)}; all: every one that this SAE allows",
        group="what", why="core takes seconds, the others up to minutes each")
    labels: str = setting(
        "", "File of labelled texts (CSV or JSONL) for probing, or of token annotations (JSONL) for concepts; "
        "sae-probes: the 113 data sets of that package, if it is installed; empty: labels that are made from Python "
        "source", group="what", max_length=4096)
    eval_tokens: int = setting(100_000, "Held-out text tokens", group="evaluation", unit="tokens", ge=1_000)
    ce_tokens: int = setting(16_384, "Held-out text tokens for ΔCE", group="evaluation", unit="tokens", ge=256)
    seed: int = setting(0, "Seed of the choice of text and of every random choice of a measure", group="evaluation",
                        ge=0, lt=2**31)
    seeds: int = setting(
        1, "Repetitions of each measure, with consecutive seeds; values are means, intervals enclose all repetitions",
        group="evaluation", ge=1, le=20)
    shards: int = setting(
        1, "Parts of the work that are done separately, on a cluster at the same time; the values do not depend on it. "
        "A part makes some of the measures, repetitions and random dictionaries", group="stream", unit="parts", ge=1,
        le=250, why="a lost node costs one part; each part loads the language model and the text")
    device: str = setting("auto", DEVICES, group="stream", pattern=DEVICE)
