"""The explanations of a latent as its page and its JSON show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import numpy as np
from markupsafe import Markup
from sqlalchemy import Row
from sqlalchemy.orm import Session

from app.db.tables import ExplanationScore, Sae, User
from app.library import explanations
from app.library.explanations import GOOD_F1, Explained
from app.render import charts
from app.render.numbers import fixed, percent, whole
from sae.errors import UserError
from sae.explain.endpoint_settings import find_endpoint
from sae.store.build import Build
from sae.store.latent_query import ALIVE
from sae.store.latent_search import rule_scores

BARS = 20  # of the histogram of scores
KIND_WORDS = {"rule": "rule", "person": "person", "model": "model"}
SORT_WORDS = {"active": "active", "random": "random text", "similar": "similar latent", "near": "near miss"}
# Each scorer: its name, and what its value is.
SCORERS = {
    "detection": ("detection", "Balanced accuracy of a model that says from the explanation in which texts the latent "
                  "fires; 0.5 is chance"),
    "fuzzing": ("fuzzing", "Balanced accuracy of a model that says from the explanation where the marked tokens are "
                "right; 0.5 is chance"),
    "simulation": ("simulation", "Correlation of the activations that a model predicts from the explanation with the "
                   "real ones; 0 is chance"),
    "intruder": ("intruder", "Share of rounds in which a model finds the text without firing among four with it; 0.2 "
                 "is chance. It measures the latent and not an explanation"),
    "embedding": ("embedding", "Probability that a text with a firing is nearer to the explanation than one without; "
                  "0.5 is chance"),
    "rule": ("rule F1", "F1 of the rule on contexts that it was not found on, token by token"),
    "output": ("output", "How much steering with the latent raises the probability of the explanation's tokens, minus "
               "the same for random directions"),
    "imported": ("imported", "A score of another program"),
}


@dataclass(frozen=True)
class ScoreLine:
    """A score in words: `share` is the length of its bar, from 0 to 1."""

    name: str
    said: str
    value: str
    interval: str
    share: float
    notes: list[str]
    wrong: list[dict[str, Any]]


@dataclass(frozen=True)
class ExplanationLine:
    """An explanation in words."""

    id: str
    text: str
    made: str
    created: float
    chosen: bool
    removable: bool
    scores: list[ScoreLine]


@dataclass(frozen=True)
class Explanations:
    """All explanations of a latent, and the scores of the latent itself.

    `endpoint` is the name of the model that the person who looks may ask for one more, or "".
    """

    lines: list[ExplanationLine] = field(default_factory=list)
    latent_scores: list[ScoreLine] = field(default_factory=list)
    endpoint: str = ""


@dataclass(frozen=True)
class ShareExplained:
    """The latents that an explanation of one kind explains at F1 ≥ 0.7, out of the alive ones."""

    kind: str
    n: int
    share: float


def explanations_of(
    db: Session, sae: Sae, latent: int, user: User | None = None, *, known_empty: bool = False,
) -> Explanations:
    """Return the explanations of a latent; `user` is the person who looks.

    With `known_empty` there are none, so the database is not asked.
    """
    found, own = ([], []) if known_empty else explanations.of_latent(db, sae.id, latent)
    lines = [ExplanationLine(
        one.row.id, one.row.text, _made(one), one.row.created, one.row.chosen,
        user is not None and one.row.author == user.name and one.row.method == "page",
        [score_line(score) for score in one.scores]) for one in found]
    scores = [score_line(score) for score in own]
    return Explanations(lines, scores, _endpoint_model() if user is not None and user.is_admin else "")


def _endpoint_model() -> str:
    """Return the name of the model behind the endpoint that the server is set to, or ""."""
    try:
        return find_endpoint().model
    except UserError:
        return ""


def explanations_json(db: Session, sae: Sae, latent: int) -> list[dict[str, Any]]:
    """Return the explanations of a latent for its JSON."""
    fields = ("id", "text", "kind", "author", "method", "model", "prompt_version", "run", "created", "chosen")
    return [{**{name: getattr(one.row, name) for name in fields},
             "scores": [_score_json(score) for score in one.scores]}
            for one in explanations.of_latents(db, sae.id, [latent]).get(latent, [])]


def _score_json(score: Row[Any]) -> dict[str, Any]:
    return {name: getattr(score, name) for name in (
        "scorer", "value", "low", "high", "f1", "n", "model", "created", "details")}


def score_line(score: Row[Any] | ExplanationScore) -> ScoreLine:
    name, said = SCORERS.get(score.scorer, (score.scorer, "A score"))
    details = score.details or {}
    interval = f"{fixed(score.low, 2)} to {fixed(score.high, 2)}" if score.low is not None else ""
    notes = [f"F1 {fixed(score.f1, 2)}"] if score.f1 is not None and score.scorer != "rule" else []
    if score.scorer == "rule" and "precision" in details:
        notes.append(f"precision {percent(details['precision'])}, recall {percent(details['recall'])}")
    sorts = details.get("sorts") if isinstance(details.get("sorts"), Mapping) else {}
    for sort, values in (sorts or {}).items():
        value = values.get("balanced_accuracy", values.get("auc"))
        notes.append(f"against {SORT_WORDS.get(sort, sort)}: {fixed(value, 2)}")
    if details.get("unparsable"):
        notes.append(f"{details['unparsable']} answers could not be read")
    if details.get("seen"):
        notes.append("its author may have seen these texts")
    if details.get("verified") is False:
        notes.append("texts without firings were not verified")
    wrong = [row for row in details.get("wrong") or [] if isinstance(row, Mapping)]
    return ScoreLine(name, said, fixed(score.value, 2), interval, min(1.0, max(0.0, score.value)), notes,
                     [{"text": str(row.get("text", "")), "sort": SORT_WORDS.get(str(row.get("sort")), ""),
                       "answer": row.get("answer")} for row in wrong])


def _made(one: Explained) -> str:
    """Return who or what made an explanation."""
    row = one.row
    if row.kind == "model":
        return " · ".join(part for part in (row.model or row.author, row.method, row.prompt_version) if part)
    if row.kind == "rule":
        return "found by counting"
    return f"by {row.author}" if row.author else "by a person"


@dataclass(frozen=True, eq=False)
class ExplainedLatents:
    """The best quality of each latent's explanations, by kind, each [L]; `alive` is the number of alive latents.

    NaN is a latent without such an explanation.  The rules are those of the build.  Labels and other explanations
    without a score do not count.
    """

    by_kind: dict[str, np.ndarray]
    alive: int
    build: Build

    @classmethod
    def read(cls, db: Session, build: Build, sae: Sae) -> ExplainedLatents:
        by_kind = {"rule": rule_scores(build)}
        for latent, kinds in explanations.qualities(db, sae.id).items():
            for kind, value in kinds.items():
                if value >= 0 and kind in KIND_WORDS and latent < len(by_kind["rule"]):
                    if kind not in by_kind or by_kind[kind] is rule_scores(build):  # which other pages share
                        by_kind[kind] = by_kind[kind].copy() if kind in by_kind else np.full_like(
                            by_kind["rule"], np.nan)
                    by_kind[kind][latent] = np.fmax(value, by_kind[kind][latent])
        return cls({kind: found for kind, found in by_kind.items() if not np.isnan(found).all()},
                   build.counts()[ALIVE], build)

    @cached_property
    def best(self) -> np.ndarray:
        """The best quality of each latent by any kind, [L]."""
        return reduce(np.fmax, self.by_kind.values()) if self.by_kind else np.empty(0, np.float32)

    def shares(self) -> list[ShareExplained]:
        """Return the share of the alive latents that is explained well, by kind of explanation and by any of them."""
        rows = {KIND_WORDS[kind]: found for kind, found in self.by_kind.items()}
        if len(rows) > 1:
            rows["any"] = self.best
        good = {kind: int((found >= np.float32(GOOD_F1)).sum()) for kind, found in rows.items()}
        return [ShareExplained(kind, n, n / max(1, self.alive)) for kind, n in good.items()]

    def chart(self) -> Markup | None:
        """Draw how good the latents' best explanations are; None without any score."""
        if not self.by_kind:
            return None
        kinds = self.by_kind.items() if len(self.by_kind) > 1 else ()
        frame = charts.Frame(
            "Latents by the score of their best explanation", "F1", "latents", 420, 200, y_format=whole, y_tick=whole)
        return charts.histogram(
            self._bars(self.best), frame, outlines=[(KIND_WORDS[kind], self._bars(found)) for kind, found in kinds],
            label="any", markers=[charts.Marker(GOOD_F1, "explained")])

    def _bars(self, qualities: np.ndarray) -> list[charts.Bar]:
        return self.build.kept(_rule_bars) if qualities is rule_scores(self.build) else _bars(qualities)


def _rule_bars(build: Build) -> list[charts.Bar]:
    return _bars(rule_scores(build))


def _bars(qualities: np.ndarray) -> list[charts.Bar]:
    known = qualities[~np.isnan(qualities)]
    counts = np.bincount((known * BARS + 1e-4).clip(0, BARS - 1).astype(int), minlength=BARS)  # a stored 0.7 is less
    return [charts.Bar(i / BARS, (i + 1) / BARS, float(n)) for i, n in enumerate(counts)]
