"""A short rule of a latent, found on some contexts alone, in the form of the index's rules.  No torch.

The rules of the index are counted over the whole text, so they know the documents that score an explanation.  What an
explainer sees is counted here, on the contexts of its own half: the precision is that among these contexts, most of
which were chosen because the latent fires in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sae.store.records import CLASSES, Context, Rule, Vocabulary

MAX_TOKENS = 5  # vocabulary entries that one rule may name
MIN_FIRINGS = 4  # firings in the contexts that a rule needs
_MIN_PAIR = 2  # firings on a token before a rule may name it
_NONE = -1  # the token before the first and after the last one

Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Positions:
    """Positions of some contexts: the tokens there, before and after; the classes; whether the latent fires."""

    tokens: dict[str, Numbers]
    classes: Flags  # a row for each class of `CLASSES`
    fires: Flags


def find_rule(contexts: Sequence[Context], info: Vocabulary) -> Rule | None:
    """Return the rule with the best F1 in these contexts, scored there; None if the latent hardly fires in them."""
    found = positions_of(contexts, info)
    n_firings = int(found.fires.sum())
    if n_firings < MIN_FIRINGS:
        return None
    rules = [rule for kind, tokens in found.tokens.items()
             if (rule := _token_rule(kind, tokens, found.fires, n_firings)) is not None]
    hits, matches = found.classes[:, found.fires].sum(axis=1), found.classes.sum(axis=1)
    rules += [_scored("class", [], name, int(right), int(named), n_firings)
              for name, right, named in zip(CLASSES, hits, matches, strict=True) if right]
    return max(rules, key=lambda rule: rule.f1, default=None)


def _token_rule(kind: str, tokens: Numbers, fires: Flags, n_firings: int) -> Rule | None:
    """Return the few tokens of highest precision whose union has the best F1."""
    known, place = np.unique(tokens, return_inverse=True)
    matches, hits = np.bincount(place), np.bincount(place, weights=fires)
    usable = np.flatnonzero((hits >= _MIN_PAIR) & (known != _NONE))
    if not len(usable):
        return None
    order = usable[np.lexsort((-hits[usable], -hits[usable] / matches[usable]))][:MAX_TOKENS]
    rules = [_scored(kind, known[order[:n]].tolist(), None, int(hits[order[:n]].sum()), int(matches[order[:n]].sum()),
                     n_firings) for n in range(1, len(order) + 1)]
    return max(rules, key=lambda rule: rule.f1)  # the first of equal ones, so the shortest


def _scored(kind: str, tokens: list[int], name: str | None, hits: int, matches: int, n_firings: int) -> Rule:
    return Rule(kind, tokens, name, hits / matches, hits / n_firings, 2 * hits / (matches + n_firings))


def positions_of(contexts: Sequence[Context], info: Vocabulary) -> Positions:
    """Return every position of the contexts once: contexts of several bands may be one text."""
    seen: dict[int, set[int]] = {}
    rows: list[tuple[Numbers, Numbers, Numbers, Flags, Flags]] = []
    for context in contexts:
        start, known = context.start or 0, seen.setdefault(context.ctx, set())
        new = np.array([start + i not in known for i in range(len(context.tokens))], dtype=bool)
        known.update(range(start, start + len(context.tokens)))
        own = np.array(context.tokens, dtype=np.int64)
        padded = np.concatenate([[_NONE], own, [_NONE]])
        fires = np.array(context.acts) > 0
        rows.append((own[new], padded[:-2][new], padded[2:][new], classes_in(context.tokens, info, start)[:, new],
                     fires[new]))
    if not rows:
        none = np.zeros(0, dtype=np.int64)
        return Positions({}, np.zeros((len(CLASSES), 0), dtype=bool), none > 0)
    own, before, after, classes, fires = (np.concatenate(part, axis=-1) for part in zip(*rows, strict=True))
    return Positions({"token": own, "previous": before, "next": after}, classes, fires)


# ---- classes of positions, as `sae.index.token_classes` defines them for whole contexts


def classes_in(tokens: Sequence[int], info: Vocabulary, start: int = 0) -> Flags:
    """Return which of `CLASSES` each token belongs to, [classes, tokens].

    `start` is the position of the first token in its context.  What is open before it (a comment, a bracket) is
    not known.
    """
    table = np.array([_properties(info[token].piece) for token in tokens], dtype=np.int64).reshape(-1, 10)
    number, punctuation, capital, newline, space, first, last, hash_sign = table[:, :8].T > 0
    triple, brackets = table[:, 8], table[:, 9]
    place = np.arange(len(table))
    has_before = (start + place > 1) & (place > 0)  # BOS at 0 is not text
    last_line, last_hash = _before(np.where(newline, place, 0)), _before(np.where(hash_sign, place, -1))
    level = np.cumsum(brackets)
    depth = level - np.minimum(np.minimum.accumulate(level), 0) if len(level) else level
    inside = {
        "number": number, "punctuation": punctuation, "capital": capital, "newline": newline, "space": space,
        "inside_word": first & np.roll(last, 1) & has_before,
        "line_start": np.roll(newline, 1) & has_before & ~newline,
        "comment": (last_hash > last_line) & ~newline,
        "triple_quotes": (np.cumsum(triple) - triple) % 2 == 1,
        "brackets": np.concatenate([[0], depth[:-1]])[: len(place)] > 0,
        "context_start": start + place == 1}
    return np.stack([inside[name] for name in CLASSES])


def _before(mark: Numbers) -> Numbers:
    """Return the largest mark strictly before each position."""
    return np.maximum.accumulate(np.concatenate([[-1], mark[:-1]]))[: len(mark)]


@lru_cache(maxsize=1 << 15)
def _properties(piece: bytes) -> tuple[int, ...]:
    """Return what the classes need to know of a token; parts of characters count as letters."""
    text = piece.decode("utf-8", "replace")
    bare = text.strip()

    def in_word(part: str) -> bool:
        return bool(part) and (part.isalnum() or part in "_\ufffd")

    return (bare.isdigit(), bool(bare) and not any(map(in_word, bare)), bare[:1].isupper(),
            "\n" in text, bool(text) and not bare, in_word(text[:1]), in_word(text[-1:]), "#" in text,
            text.count('"""') + text.count("'''"), text.count("(") - text.count(")"))
