"""A run of explanations in parts: each part explains some of the latents, and the run gathers their records.

A part writes its records to a folder of its own.  The run appends them to the SAE's file in the order of the latents.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae.explain import results
from sae.explain.records import Explanation, Record, Score
from sae.runs.folder import RunFolder
from sae.runs.parts import part_file, parts_folder
from sae.specs.explain import ExplainSpec
from sae.workspace.files import write_json


@dataclass
class Tally:
    """The counts, scores and costs of explained latents."""

    counts: Counter[str] = field(default_factory=Counter)  # explained, unexplained, unscored, scored
    values: dict[str, list[float]] = field(default_factory=dict)  # every score by scorer
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0
    stopped: str = ""  # why latents are left

    @classmethod
    def of(cls, records: Sequence[Record], spec: ExplainSpec) -> Tally:
        """Count the records that an interrupted process of a run has left.  Their costs are counted elsewhere."""
        tally = cls()
        scores = [one for one in records if isinstance(one, Score)]
        scored = {score.explanation for score in scores if score.explanation}
        explained = [one for one in records if isinstance(one, Explanation)]
        tally.counts["explained"] = len(explained)
        tally.counts["unscored"] = sum(one.id not in scored for one in explained) if spec.scored_by else 0
        tally.counts["scored"] = len(scored) if spec.explainer == "existing" else 0
        for score in scores:
            tally.values.setdefault(score.scorer, []).append(score.value)
        return tally

    def add(self, other: Tally) -> None:
        """Add the tally of other latents."""
        self.counts.update(other.counts)
        for scorer, values in other.values.items():
            self.values.setdefault(scorer, []).extend(values)
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        self.money += other.money
        self.stopped = self.stopped or other.stopped

    @property
    def means(self) -> dict[str, float]:
        """The mean score of each scorer."""
        return {name: sum(values) / len(values) for name, values in self.values.items()}

    def result(self, existing: bool) -> dict[str, Any]:
        """Return the result of a run; `existing`: of one that scores explanations that exist."""
        return {"explained": self.counts["explained"], "unexplained": self.counts["unexplained"], "scores": self.means,
                **({"scored": self.counts["scored"]} if existing else {}),
                **({"unscored": self.counts["unscored"]} if self.counts["unscored"] else {}),
                "tokens_in": self.tokens_in, "tokens_out": self.tokens_out, "money": self.money,
                **({"stopped": self.stopped} if self.stopped else {})}


def place_of(parent: RunFolder, number: int) -> Path:
    """Return the folder of a part's records and paid answers, and make it."""
    place = parts_folder(parent) / f"part-{number}"
    place.mkdir(parents=True, exist_ok=True)
    return place


def with_share(spec: ExplainSpec) -> ExplainSpec:
    """Return the settings of one part: an equal share of the budget."""
    tokens = max(1, spec.budget_tokens // spec.shards) if spec.budget_tokens else 0
    return spec.model_copy(update={"budget_tokens": tokens, "budget_money": spec.budget_money / spec.shards})


def finish(parent: RunFolder, number: int, of: int, tally: Tally) -> None:
    """Write the tally of a part whose records are complete."""
    write_json(part_file(parent, number, of), vars(tally))


def finished(parent: RunFolder, of: int) -> list[Tally | None]:
    """Return the tally of each part, or None where no process has finished it."""
    files = [part_file(parent, number, of) for number in range(1, of + 1)]
    return [_tally(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None for file in files]


def _tally(value: dict[str, Any]) -> Tally:
    return Tally(**{**value, "counts": Counter(value["counts"])})


def merge(parent: RunFolder, home: Path, parts: Sequence[Tally | None], rest: Tally) -> Tally:
    """Append the records of the finished parts to the file of the SAE in `home`, and return the tally of everything.

    `rest` is the tally of the latents that are in no finished part.  A second merge appends nothing twice.
    """
    there = {_identity(one) for one in results.read(home)[0]} if any(parts) else set()
    whole = rest
    for number, part in enumerate(parts, 1):
        if part is not None:
            records: Iterable[Record] = results.read(place_of(parent, number))[0]
            results.append(home, [one for one in records if _identity(one) not in there])
            whole.add(part)
    return whole


def _identity(record: Record) -> tuple[str, float]:
    return record.id, record.created
