"""Explanations of latents and their scores, as records.  No torch.

An explanation is made by a rule (found by counting), by a person, or by a model.  A score says how well an explanation
predicts the latent on text that it was not made from.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = ("rule", "person", "model")
RULE_METHOD = "saescope-rule"  # of an explanation that puts the rule of the build into words
MAX_TEXT = 500  # characters of an explanation
# The scorers whose value names how good an explanation is, from the most to the least telling.
HEADLINE = ("detection", "fuzzing", "rule", "simulation", "embedding", "imported", "output")


@dataclass(frozen=True)
class Explanation:
    """A text about one latent, with its author and how it was made.

    `method` is the name of the way it was made (an explainer's type), `prompt_version` that of the prompt.
    """

    latent: int
    text: str
    kind: str
    author: str = ""
    method: str = ""
    model: str = ""
    prompt_version: str = ""
    run: str = ""
    created: float = field(default_factory=time.time)
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self.identity())

    def identity(self) -> str:
        """Return the id: the same latent, run, way and text give the same one, so that a resumed run repeats none."""
        parts = (self.latent, self.kind, self.author, self.method, self.model, self.prompt_version, self.run,
                 "" if self.run else self.text)
        return digest(*parts)


@dataclass(frozen=True)
class Score:
    """The value of a scorer for one explanation, or for a latent itself (`explanation` is empty).

    `value` with its interval from `low` to `high` (95%, bootstrap) is over `n` examples.  `f1` is the F1 on the same
    examples, or None for a scorer that does not classify.
    """

    latent: int
    scorer: str
    value: float
    n: int
    explanation: str = ""
    low: float | None = None
    high: float | None = None
    f1: float | None = None
    model: str = ""
    created: float = field(default_factory=time.time)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return digest(self.explanation, self.latent, self.scorer, self.model)


Record = Explanation | Score


def digest(*parts: Any) -> str:
    """Return a short id of these values: 24 hexadecimal digits."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=12).hexdigest()


def to_json(record: Record) -> dict[str, Any]:
    """Return the JSON object of a record."""
    kind = "explanation" if isinstance(record, Explanation) else "score"
    return {kind: {name: getattr(record, name) for name in record.__dataclass_fields__}}


def from_json(value: Any) -> Record | None:
    """Return the record of a JSON object, or None if it is not one; unknown keys are ignored."""
    for key, model in (("explanation", Explanation), ("score", Score)):
        if isinstance(value, Mapping) and isinstance(values := value.get(key), Mapping):
            known = {name: values[name] for name in model.__dataclass_fields__ if name in values}
            try:
                record = model(**known)
            except TypeError:  # a value that a record needs is missing
                return None
            return record if _is_usable(record) else None
    return None


def _is_usable(record: Any) -> bool:
    latent = record.latent
    if not isinstance(latent, int) or isinstance(latent, bool) or latent < 0:
        return False
    if isinstance(record, Explanation):
        return isinstance(record.text, str) and record.kind in KINDS and isinstance(record.id, str)
    numbers = [record.value, *(v for v in (record.low, record.high, record.f1) if v is not None)]
    return isinstance(record.details, dict) and all(isinstance(v, int | float) for v in numbers)


def headline(scores: Mapping[str, Score]) -> Score | None:
    """Return the score that says how good an explanation is, out of its scores by scorer."""
    return next((scores[name] for name in HEADLINE if name in scores), None)


def quality(score: Score) -> float:
    """Return the number by which explanations are ranked: F1 where there is one, else the value."""
    return score.value if score.f1 is None else score.f1
