"""The explanations of SAEs in memory, where a word is found much faster than in the database.

All texts of an SAE are one string, which is searched as a whole.  A search compares pieces of text without their case,
so it serves every language and every token of code.  Triggers of the database count the changes of each SAE's
explanations (migration `explanation_versions`), and the texts are read again when that number has changed.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator
from threading import Lock
from typing import NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.db.tables import ExplanationVersion, LatentExplanation

_KEPT = 64  # SAEs whose texts are kept for each database
_BETWEEN = "\0"  # no text contains it
_VERSIONS = select(ExplanationVersion.sae_id, ExplanationVersion.version)
_TEXTS = select(LatentExplanation.latent, LatentExplanation.text, LatentExplanation.method)


class FoundText(NamedTuple):
    """An explanation that contains the words of a search.

    `share` is how much of it they are: 1 if it is nothing else, and at most a half if they are apart.
    """

    latent: int
    text: str
    method: str
    share: float


class Texts:
    """The explanations of one SAE: (latent, text, method), ordered by latent."""

    def __init__(self, rows: list[tuple[int, str, str]]) -> None:
        self.rows = rows
        self._folded = [_fold(text) for _, text, _ in rows]
        self._all = _BETWEEN.join(self._folded)
        self._starts, at = [], 0
        for text in self._folded:
            self._starts.append(at)
            at += len(text) + len(_BETWEEN)

    def search(self, text: str, limit: int) -> list[FoundText]:
        """Return explanations that contain every word of `text` in any case, best first; `limit` are looked at."""
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


_kept: WeakKeyDictionary[Engine, OrderedDict[str, tuple[int, Texts]]] = WeakKeyDictionary()
_lock = Lock()


def texts_of(db: Session, sae_ids: Collection[str]) -> dict[str, Texts]:
    """Return the explanations of these SAEs; an SAE without any is left out."""
    found = db.execute(_VERSIONS.where(ExplanationVersion.sae_id.in_(sae_ids)))
    versions: dict[str, int] = {sae_id: version for sae_id, version in found}  # noqa: C416  (rows are no pairs to mypy)
    engine = db.get_bind().engine
    out = {}
    for sae_id, version in versions.items():  # read before the texts: these may be newer, never older
        with _lock:
            kept = _kept.setdefault(engine, OrderedDict())
            known = kept.get(sae_id)
        if known is None or known[0] != version:
            rows = db.execute(_TEXTS.where(LatentExplanation.sae_id == sae_id).order_by(LatentExplanation.latent))
            known = version, Texts([(latent, text, method) for latent, text, method in rows])
        with _lock:
            kept[sae_id] = known
            kept.move_to_end(sae_id)
            while len(kept) > _KEPT:
                kept.popitem(last=False)
        if known[1].rows:
            out[sae_id] = known[1]
    return out
