"""The measure `explained`: the share of an SAE's alive latents whose best explanation has an F1 of 0.7 or more.

The rules are those of the build.  All other explanations with their scores are in the SAE's folder of the workspace to
which the build belongs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from statistics import fmean

from sae.evaluation.measure import Progress, Result, Subject, Value
from sae.explain import results
from sae.explain.records import KINDS, Explanation, Record, Score, headline, quality
from sae.store.build import Build
from sae.store.intervals import share_interval
from sae.store.latent_query import ALIVE
from sae.store.latent_search import rule_qualities
from sae.workspace.paths import Workspace

GOOD_F1 = 0.7
BARS = 20  # of the histogram of scores
DEFINITIONS: dict[str, str] = {
    **{f"explained_by_{kind}": f"Share of the alive latents that an explanation by a {kind} explains with an F1 of "
       f"{GOOD_F1} or more on text that it was not made from." for kind in KINDS},
    "explained": f"Share of the alive latents that any explanation explains with an F1 of {GOOD_F1} or more.",
    "best_score": "Mean score of the best explanation over the latents that have a scored one.",
}


class Explained:
    """The measure of how many latents are explained well."""

    name = "explained"

    def refuse(self, subject: Subject) -> str | None:
        return None if subject.build is not None else "it has no index, which holds the rules"

    def run(self, subject: Subject, progress: Progress) -> Result:
        """Count the latents.  The values have Wilson's intervals, as if the alive latents were a sample."""
        assert subject.build is not None
        place = subject.build.resolve()
        folder = Workspace(place.parents[3]).sae(f"{place.parent.parent.name}/{place.parent.name}")
        with contextlib.closing(Build.open(place)) as build:
            alive = build.counts()[ALIVE]
            by_kind = qualities(results.read_all(folder), rule_qualities(build))
        progress(1, 1)
        best: dict[int, float] = {}
        for found in by_kind.values():
            for latent, value in found.items():
                best[latent] = max(value, best.get(latent, value))
        values = [_share(f"explained_by_{kind}", found, alive) for kind, found in by_kind.items()]
        mean = fmean(best.values()) if best else None
        counts = [0] * BARS
        for value in best.values():
            counts[min(BARS - 1, max(0, int(value * BARS + 1e-9)))] += 1
        return Result(self.name, (*values, _share("explained", best, alive), Value("best_score", mean, n=len(best))),
                      {"histogram": counts, "good_f1": GOOD_F1})


def qualities(records: Iterable[Record], rules: Mapping[int, float]) -> dict[str, dict[int, float]]:
    """Return the best quality of each latent's scored explanations by kind; `rules` are the F1 of the build's rules."""
    found = list(records)
    scores: dict[str, dict[str, Score]] = {}
    for score in found:
        if isinstance(score, Score) and score.explanation:
            scores.setdefault(score.explanation, {})[score.scorer] = score
    out: dict[str, dict[int, float]] = {kind: {} for kind in KINDS}
    out["rule"] |= rules
    for one in found:
        if isinstance(one, Explanation) and (best := headline(scores.get(one.id, {}))) is not None:
            kind = out[one.kind]
            kind[one.latent] = max(quality(best), kind.get(one.latent, quality(best)))
    return out


def _share(key: str, found: Mapping[int, float], alive: int) -> Value:
    if not alive:
        return Value(key, None, note="no latent is alive")
    share = min(1.0, sum(value >= GOOD_F1 for value in found.values()) / alive)
    low, high = share_interval(share, float(alive))
    return Value(key, share, low, high, alive)
