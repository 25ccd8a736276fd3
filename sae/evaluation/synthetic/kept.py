"""The scores of a synthetic world as results that pages show, between a perfect and a random dictionary.  No torch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sae.evaluation.published import PublishedResult

KIND = "synthetic"
_NAMES = {"perfect": "perfect dictionary", "random": "random dictionary"}


def results(
    profile: str, rows: Sequence[Mapping[str, Any]], reference: Mapping[str, Mapping[str, float]], n_latents: int,
    k: int,
) -> list[PublishedResult]:
    """Return one result for each dictionary and seed, and for each published score of the same profile.

    Their "language model" is `synthetic-<profile>`.  FVU is 1 − explained variance.
    """
    def result(name: str, architecture: str, source: str, scores: Mapping[str, Any]) -> PublishedResult:
        values = {key: float(value) for key, value in scores.items()
                  if isinstance(value, int | float) and key != "seed"}
        if "dead" in values:
            values["dead_fraction"] = values.pop("dead")
        if "explained_variance" in values:
            values["fvu"] = 1 - values["explained_variance"]
        return PublishedResult(f"synthetic-{profile}", name, KIND, source, architecture=architecture,
                               n_latents=n_latents, k=k, values=values, created=time.time())

    found = []
    for row in rows:
        if "error" not in row:
            name = str(row["dictionary"])
            seed = "" if row["seed"] is None else f", seed {row['seed']}"
            found.append(result(_NAMES.get(name, name) + seed, _NAMES.get(name, name), "saescope synthetic", row))
    return found + [result(f"{name}, mean of seeds", name, "SynthSAEBench", scores)
                    for name, scores in reference.items()]
