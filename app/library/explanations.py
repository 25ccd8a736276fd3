"""Explanations of latents with their scores, and the name by which a latent is shown.

The name is the explanation that a person has chosen, else the best scored one, else the rule of the build.  A label is
its author's explanation, and it is chosen when it is written.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Row, bindparam, delete, exists, select, update
from sqlalchemy.orm import Session

from app.db.tables import ExplanationScore, Label, LatentExplanation, Sae
from app.library import stars
from app.library.explanation_texts import LABEL, TAG, FoundText, Texts, notes_of, texts_of
from app.render.latent_words import RuleWords
from sae.errors import UserError
from sae.explain.records import HEADLINE, MAX_TEXT

GOOD_F1 = 0.7  # an explanation that is this good explains its latent
# These statements are built once: every page of a latent asks them.
_THESE = (LatentExplanation.sae_id == bindparam("sae"),
          LatentExplanation.latent.in_(bindparam("latents", expanding=True)))
_THEIRS = (ExplanationScore.sae_id == bindparam("sae"),
           ExplanationScore.latent.in_(bindparam("latents", expanding=True)))
# They are read as plain rows: objects of the session cost the page twice as much.
_OF_LATENTS, _SCORES = (select(*table.__table__.c).where(*these) for table, these in (
    (LatentExplanation, _THESE), (ExplanationScore, _THEIRS)))
_OF_LATENT, _SCORES_OF_LATENT = (  # without a list, which takes time to expand
    select(*table.__table__.c).where(table.sae_id == bindparam("sae"), table.latent == bindparam("latent"))
    for table in (LatentExplanation, ExplanationScore))
_NAMES = select(
    LatentExplanation.id, LatentExplanation.latent, LatentExplanation.kind, LatentExplanation.text,
    LatentExplanation.chosen, LatentExplanation.created).where(*_THESE)
_NAME_SCORES = select(
    ExplanationScore.explanation_id, ExplanationScore.scorer, ExplanationScore.value, ExplanationScore.f1).where(
    *_THEIRS, ExplanationScore.scorer.in_(HEADLINE))
_ORDER = {scorer: place for place, scorer in enumerate((*HEADLINE, "intruder"))}


@dataclass(frozen=True)
class Name:
    """The shown name of a latent: its text, who made it (rule, person or model), and its score, if it has one.

    A rule of the build has its tokens in `rule`, and no `id`.
    """

    text: str
    kind: str
    score: float | None = None
    scorer: str = ""
    id: str = ""
    rule: RuleWords | None = None


@dataclass
class Explained:
    """An explanation with its scores, the most telling one first."""

    row: Row[Any]  # of the table of explanations
    scores: list[Row[Any]] = field(default_factory=list)

    @property
    def best(self) -> Row[Any] | None:
        """The score that says how good the explanation is."""
        return next((score for score in self.scores if score.scorer in HEADLINE), None)

    @property
    def quality(self) -> float:
        """The number by which explanations are ranked; −1 without a score."""
        return -1.0 if self.best is None else quality(self.best)


def quality(score: Row[Any]) -> float:
    """Return F1 where a score has it, else its value."""
    return float(score.value if score.f1 is None else score.f1)


def of_latents(db: Session, sae_id: str, latents: Collection[int]) -> dict[int, list[Explained]]:
    """Return the explanations of these latents: the chosen one first, then the best scored."""
    return _with_scores(db, sae_id, latents)[0]


def of_latent(db: Session, sae_id: str, latent: int) -> tuple[list[Explained], list[Row[Any]]]:
    """Return the explanations of a latent, and the scores that belong to the latent itself."""
    found, own = _with_scores(db, sae_id, [latent])
    return found.get(latent, []), own


def _with_scores(
    db: Session, sae_id: str, latents: Collection[int],
) -> tuple[dict[int, list[Explained]], list[Row[Any]]]:
    texts, scores = _OF_LATENTS, _SCORES
    values: dict[str, Any] = {"sae": sae_id, "latents": list(latents)}
    if len(latents) == 1:
        texts, scores, values = _OF_LATENT, _SCORES_OF_LATENT, {"sae": sae_id, "latent": next(iter(latents))}
    found: dict[int, list[Explained]] = {}
    by_id = {}
    for row in db.execute(texts, values):
        by_id[row.id] = one = Explained(row)
        found.setdefault(row.latent, []).append(one)
    own = []
    for score in sorted(db.execute(scores, values), key=lambda score: _ORDER.get(score.scorer, len(_ORDER))):
        if score.explanation_id in by_id:
            by_id[score.explanation_id].scores.append(score)
        elif not score.explanation_id:
            own.append(score)
    for rows in found.values():
        rows.sort(key=lambda one: (not one.row.chosen, -one.quality, one.row.created))
    return found, own


def explained_saes(db: Session, sae_ids: Collection[str]) -> frozenset[str]:
    """Return the SAEs among these that have an explanation or a label."""
    some = exists().where(LatentExplanation.sae_id == Sae.id)
    return frozenset(db.scalars(select(Sae.id).where(Sae.id.in_(sae_ids), some)))


def names(
    db: Session, sae_id: str, latents: Collection[int], rules: Mapping[int, RuleWords | None] | None = None,
) -> dict[int, Name]:
    """Return the shown names of latents; one without any explanation and without a good rule is left out."""
    values = {"sae": sae_id, "latents": list(latents)}
    rows = db.execute(_NAMES, values).all()  # columns, for many pages ask for the names of a hundred latents
    best: dict[str, tuple[int, str, float]] = {}
    for number, scorer, value, f1 in db.execute(_NAME_SCORES, values) if rows else ():
        score = (_ORDER[scorer], scorer, value if f1 is None else f1)
        best[number] = min(best.get(number, score), score)
    out: dict[int, Name] = {}
    none = (len(_ORDER), "", -1.0)
    for row in sorted(rows, key=lambda row: (not row.chosen, -best.get(row.id, none)[2], row.created)):
        if row.latent not in out and (row.chosen or row.id in best):
            _, scorer, value = best.get(row.id, none)
            out[row.latent] = Name(row.text, row.kind, value if scorer else None, scorer, row.id)
    for latent, rule in (rules or {}).items():
        if latent not in out and rule is not None and rule.good:
            out[latent] = Name(" ".join([rule.words, *rule.labels]), "rule", rule.rule.f1, "rule", rule=rule)
    return out


def everything(db: Session, sae_id: str, latent: int | None = None) -> dict[int, list[LatentExplanation]]:
    """Return the explanations of an SAE, or of one latent, by latent: the chosen one first, then the oldest."""
    query = select(LatentExplanation).where(LatentExplanation.sae_id == sae_id)
    if latent is not None:
        query = query.where(LatentExplanation.latent == latent)
    found: dict[int, list[LatentExplanation]] = {}
    for row in db.scalars(query.order_by(
            LatentExplanation.latent, LatentExplanation.chosen.desc(), LatentExplanation.created)):
        found.setdefault(row.latent, []).append(row)
    return found


# ---- what lists need


@dataclass
class _Ranked:
    """What lists need of an explanation: `place` is that of its most telling scorer, `quality` −1 without a score."""

    latent: int
    kind: str
    text: str
    chosen: bool
    place: int = len(HEADLINE)
    quality: float = -1.0


def _ranked(db: Session, sae_id: str) -> Collection[_Ranked]:
    """Return every explanation of an SAE with its quality, read as columns: there may be tens of thousands."""
    scores = select(
        ExplanationScore.explanation_id, ExplanationScore.scorer, ExplanationScore.value, ExplanationScore.f1).where(
        ExplanationScore.sae_id == sae_id, ExplanationScore.scorer.in_(HEADLINE))
    rows = select(
        LatentExplanation.id, LatentExplanation.latent, LatentExplanation.kind, LatentExplanation.text,
        LatentExplanation.chosen).where(LatentExplanation.sae_id == sae_id)
    found = {number: _Ranked(latent, kind, text, chosen)
             for number, latent, kind, text, chosen in db.execute(rows)}
    for number, scorer, value, f1 in db.execute(scores) if found else ():
        one = found.get(number)
        if one is not None and _ORDER[scorer] < one.place:
            one.place, one.quality = _ORDER[scorer], float(value if f1 is None else f1)
    return found.values()


def qualities(db: Session, sae_id: str) -> dict[int, dict[str, float]]:
    """Return the best quality of each explained latent by kind of explanation; −1 where it has no score."""
    out: dict[int, dict[str, float]] = {}
    for one in _ranked(db, sae_id):
        kinds = out.setdefault(one.latent, {})
        kinds[one.kind] = max(one.quality, kinds.get(one.kind, -1.0))
    return out


_by_kind: WeakKeyDictionary[Texts, dict[str, frozenset[int]]] = WeakKeyDictionary()  # as long as the texts are kept


def latents_by_kind(db: Session, sae_id: str) -> dict[str, frozenset[int]]:
    """Return the latents that have an explanation of each kind."""
    kept = texts_of(db, [sae_id]).get(sae_id)
    if kept is None:
        return {}
    if kept not in _by_kind:
        found: dict[str, set[int]] = {}
        for kind, latent in db.execute(select(LatentExplanation.kind, LatentExplanation.latent).where(
                LatentExplanation.sae_id == sae_id)):
            found.setdefault(kind, set()).add(latent)
        _by_kind[kept] = {kind: frozenset(latents) for kind, latents in found.items()}
    return _by_kind[kept]


def texts(db: Session, sae_id: str) -> dict[int, str]:
    """Return the chosen or else best scored explanation of each latent that has one; the build's rules are left out."""
    best: dict[int, _Ranked] = {}
    for one in _ranked(db, sae_id):
        now = best.get(one.latent)
        if (one.chosen or one.quality >= 0) and (
                now is None or (one.chosen, one.quality) > (now.chosen, now.quality)):
            best[one.latent] = one
    return {latent: one.text for latent, one in best.items()}


def search(db: Session, sae_ids: Collection[str], text: str, limit: int = 1000) -> dict[str, list[FoundText]]:
    """Return the explanations and labels of each of these SAEs that contain the words of `text`, best first.

    `limit` is for each SAE.
    """
    return {sae_id: texts.search(text, limit) for sae_id, texts in texts_of(db, sae_ids).items()}


def search_notes(db: Session, sae_ids: Collection[str], text: str, limit: int = 1000) -> dict[str, list[FoundText]]:
    """Return the notes and comments of each of these SAEs that contain the words of `text`, and the tags that are it.
    """
    return {sae_id: [one for one in notes.search(text, limit) if one.method != TAG or one.share == 1.0]
            for sae_id, notes in notes_of(db, sae_ids).items()}


def said_of(db: Session, sae_id: str, text: str) -> frozenset[int]:
    """Return the latents of an SAE about which something is written that contains the words of `text`."""
    return frozenset(one.latent for of_kind in (search, search_notes)
                     for one in of_kind(db, [sae_id], text, 10**9).get(sae_id, []))


def explained_latents(db: Session, sae_id: str) -> set[int]:
    """Return the latents that have a stored explanation of any kind."""
    return set(db.scalars(select(LatentExplanation.latent).where(LatentExplanation.sae_id == sae_id).distinct()))


def named_latents(db: Session, sae: Sae, text: str) -> str:
    """Return a choice of latents for a run, in which `starred`, `tagged:<tag>` and `unexplained` are numbers.

    Any other choice stays as it is.  Raises UserError (field `latents`) if there is none of these latents.
    """
    kind, _, tag = text.strip().partition(":")
    if kind == "unexplained" and not tag:
        named = set(db.scalars(select(LatentExplanation.latent).where(LatentExplanation.sae_id == sae.id)))
        found = set(range(sae.n_latents)) - named
    elif kind == "starred" and not tag:
        found = set(stars.of_anyone(db, sae.id))
    elif kind == "tagged" and tag:
        rows = db.execute(select(Label.latent, Label.tags).where(Label.sae_id == sae.id, Label.tags != ""))
        found = {row.latent for row in rows if tag.strip() in row.tags.split(", ")}
    else:
        return text
    if not found:
        raise UserError(f"latents: {sae.id} has no latent that is {text.strip().replace(':', ' ')}", "latents")
    return ",".join(f"#{latent}" for latent in sorted(found))


# ---- what people write


def write(db: Session, sae_id: str, latent: int, text: str, author: str) -> LatentExplanation:
    """Store a person's explanation without a commit.  It is chosen if no other one is.

    Raises UserError (field `text`) if it is empty or too long.
    """
    clean = " ".join(text.replace("\0", " ").split())
    if not clean:
        raise UserError("text: write the explanation first", "text")
    if len(clean) > MAX_TEXT:
        raise UserError(f"text: {len(clean):,} characters; {MAX_TEXT:,} at most", "text")
    others = of_latents(db, sae_id, [latent]).get(latent, [])
    row = LatentExplanation(
        sae_id=sae_id, id=uuid.uuid4().hex, latent=latent, text=clean, kind="person", author=author, method="page",
        created=time.time(), chosen=not any(one.row.chosen for one in others))
    db.add(row)
    return row


def choose(db: Session, sae_id: str, latent: int, explanation_id: str, chosen: bool | None = None) -> bool:
    """Choose an explanation, or take the choice back, without a commit.  Returns whether there is such an explanation.

    Without `chosen`, a choice that was made is taken back and one that was not is made.
    """
    row = db.get(LatentExplanation, (sae_id, explanation_id))
    if row is None or row.latent != latent:
        return False
    if chosen == row.chosen:
        return True
    chosen = not row.chosen
    _unchoose(db, sae_id, latent)
    row.chosen = chosen
    return True


def follow_label(db: Session, label: Label) -> None:
    """Make the explanation that follows a label the same as the label, and choose it, without a commit."""
    identity = (label.sae_id, f"label-{label.latent}")
    row = db.get(LatentExplanation, identity)
    if not label.text:
        if row is not None:
            db.delete(row)
        return
    _unchoose(db, label.sae_id, label.latent)
    if row is not None and row.text != label.text:  # the scores are of the text before
        db.execute(delete(ExplanationScore).where(
            ExplanationScore.sae_id == label.sae_id, ExplanationScore.explanation_id == identity[1]))
    if row is None:
        row = LatentExplanation(sae_id=label.sae_id, id=identity[1], latent=label.latent, kind="person", method=LABEL)
        db.add(row)
    row.text, row.author, row.created, row.chosen = label.text, label.author, label.updated, True


def remove(db: Session, sae_id: str, latent: int, explanation_id: str, author: str | None) -> bool:
    """Delete an explanation that was written on a page, without a commit.  `author`: only if it is theirs.

    Returns False if there is none that may be deleted.
    """
    row = db.get(LatentExplanation, (sae_id, explanation_id))
    if row is None or row.latent != latent or row.in_file or row.method == LABEL:
        return False
    if author is not None and row.author != author:
        return False
    db.execute(delete(ExplanationScore).where(
        ExplanationScore.sae_id == sae_id, ExplanationScore.explanation_id == explanation_id))
    db.delete(row)
    return True


def _unchoose(db: Session, sae_id: str, latent: int) -> None:
    db.execute(update(LatentExplanation).where(
        LatentExplanation.sae_id == sae_id, LatentExplanation.latent == latent, LatentExplanation.chosen).values(
        chosen=False))
