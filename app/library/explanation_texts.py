"""The texts about latents in memory, where a word is found much faster than in the database.

These are explanations with labels, and apart from them notes, tags and comments.  All texts of an SAE are one string,
which is searched as a whole.  A search compares pieces of text without their case, so it serves every language and
every token of code.  Triggers of the database count the changes of each SAE's texts (migrations `explanation_versions`
and `note_versions`), and the texts are read again when that number has changed.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from threading import Lock
from typing import NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import BindParameter, Engine, Select, bindparam, literal, select, union_all
from sqlalchemy.orm import Session

from app.db.people_tables import Comment
from app.db.tables import ExplanationVersion, Label, LatentExplanation, NoteVersion

_KEPT = 64  # SAEs whose texts are kept for each database
_BETWEEN = "\0"  # no text contains it
LABEL = "label"  # the method of the explanation that follows a label
TAG, NOTE, COMMENT = "tag", "note", "comment"
_EXCERPT = 120  # characters
_SAE: BindParameter[str] = bindparam("sae")
_EXPLANATIONS = select(LatentExplanation.latent, LatentExplanation.text, LatentExplanation.method).where(
    LatentExplanation.sae_id == _SAE).order_by(LatentExplanation.method != LABEL, LatentExplanation.latent)
_NOTES = union_all(
    select(Label.latent, Label.tags, literal(TAG)).where(Label.sae_id == _SAE, Label.tags != ""),
    select(Label.latent, Label.note, literal(NOTE)).where(Label.sae_id == _SAE, Label.note != ""),
    select(Comment.latent, Comment.text, literal(COMMENT)).where(Comment.sae_id == _SAE))


Rows = list[tuple[int, str, str]]


class FoundText(NamedTuple):
    """A text that contains the words of a search.  `method` says what it is: TAG, NOTE, COMMENT, LABEL, or how an
    explanation was made.

    `share` is how much of it they are: 1 if it is nothing else, and at most a half if they are apart.
    """

    latent: int
    text: str
    method: str
    share: float


class Texts:
    """Texts about the latents of one SAE: (latent, text, method).  A search with a limit looks at the first ones."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._folded = [_fold(text) for _, text, _ in rows]
        self._all = _BETWEEN.join(self._folded)
        self._starts, at = [], 0
        for text in self._folded:
            self._starts.append(at)
            at += len(text) + len(_BETWEEN)

    def search(self, text: str, limit: int) -> list[FoundText]:
        """Return texts that contain every word of `text` in any case, best first; `limit` are looked at."""
        whole = _fold(text.replace(_BETWEEN, " ")).strip()
        words = whole.split()
        if not words:
            return []
        if len(words) > 1:
            words.sort(key=self._all.count)  # the texts with the rarest are the fewest
        found = []
        for place in self._containing(words[0]):
            said = self._folded[place]
            if whole in said:
                share = len(whole) / len(said)
            elif all(word in said for word in words):
                share = 0.5 * sum(map(len, words)) / len(said)
            else:
                continue
            found.append(FoundText(*self.rows[place], min(share, 1.0)))
            if len(found) == limit:
                break
        return sorted(found, key=lambda one: (-one.share, one.latent))

    def _containing(self, word: str) -> Iterator[int]:
        """Yield the places of the texts that contain a word."""
        at = self._all.find(word)
        while at >= 0:
            place = bisect_right(self._starts, at) - 1
            yield place
            after = place + 1
            at = self._all.find(word, self._starts[after]) if after < len(self._starts) else -1


def _fold(text: str) -> str:
    """Return a text without case, its accents composed."""
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).casefold()


def excerpt(said: str, wanted: str) -> str:
    """Return the part of a long text around the first place of `wanted`, or else of its first word."""
    if len(said) <= _EXCERPT:
        return said
    folded, whole = _fold(said), _fold(wanted).strip()
    at = next((at for piece in (whole, *whole.split()[:1]) if (at := folded.find(piece)) >= 0), 0)
    start = max(0, min(at - _EXCERPT // 3, len(said) - _EXCERPT))
    cut = said[start:start + _EXCERPT].strip()
    return f"{'…' if start else ''}{cut}{'…' if start + _EXCERPT < len(said) else ''}"


class KeptTexts:
    """The texts of one kind of the SAEs that were searched last, for each database."""

    def __init__(self, versions: Select[str, int], rows_of: Callable[[Session, str], Rows]) -> None:
        self._versions, self._rows_of = versions, rows_of
        self._kept: WeakKeyDictionary[Engine, OrderedDict[str, tuple[int, Texts]]] = WeakKeyDictionary()
        self._lock = Lock()

    def __call__(self, db: Session, sae_ids: Collection[str]) -> dict[str, Texts]:
        """Return the texts of these SAEs; an SAE without any is left out."""
        found = db.execute(self._versions, {"saes": list(sae_ids)})
        versions: dict[str, int] = {sae_id: version for sae_id, version in found}  # noqa: C416  (no pairs to mypy)
        engine = db.get_bind().engine
        out = {}
        for sae_id, version in versions.items():  # read before the texts: these may be newer, never older
            with self._lock:
                kept = self._kept.setdefault(engine, OrderedDict())
                known = kept.get(sae_id)
            if known is None or known[0] != version:
                known = version, Texts(self._rows_of(db, sae_id))
            with self._lock:
                kept[sae_id] = known
                kept.move_to_end(sae_id)
                while len(kept) > _KEPT:
                    kept.popitem(last=False)
            if known[1].rows:
                out[sae_id] = known[1]
        return out


def _versions_of(table: type[ExplanationVersion | NoteVersion]) -> Select[str, int]:
    return select(table.sae_id, table.version).where(table.sae_id.in_(bindparam("saes", expanding=True)))


def _explanations(db: Session, sae_id: str) -> Rows:
    """Return the explanations by latent.  Labels come first, so that a limit leaves none of them out."""
    return [(latent, text, method) for latent, text, method in db.execute(_EXPLANATIONS, {"sae": sae_id})]


def _labels(db: Session, sae_id: str) -> Rows:
    """Return the texts of labels."""
    rows = db.execute(_EXPLANATIONS.where(LatentExplanation.method == LABEL), {"sae": sae_id})
    return [(latent, text, method) for latent, text, method in rows]


def _notes(db: Session, sae_id: str) -> Rows:
    """Return the tags, each a text, then the notes and the comments."""
    rows: Rows = []
    for latent, text, kind in db.execute(_NOTES, {"sae": sae_id}):
        rows += [(latent, one, kind) for one in (text.split(", ") if kind == TAG else [text])]
    return sorted(rows, key=lambda row: (row[2] != TAG, row[0]))


texts_of = KeptTexts(_versions_of(ExplanationVersion), _explanations)
labels_of = KeptTexts(_versions_of(ExplanationVersion), _labels)
notes_of = KeptTexts(_versions_of(NoteVersion), _notes)
