"""The example that a first visit to the steering page finds: a latent whose concept shows, and a text to continue."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from sae.store.build import Build
from sae.store.latent_query import ALIVE, Filters
from sae.store.records import LatentRow, Token

_PROMPT_TOKENS = 16
_LOOKED_AT = 1000  # latents with the most uneven logits
_TOP = 5  # tokens whose logits a latent raises most
_FAMILY = 3  # as many of them are forms of one word
_STEM = 4  # letters that forms of one word share


def example_latent(build: Build) -> int | None:
    """Return a latent whose effect a reader sees at once; None if no latent is alive.

    The best one raises several forms of one word ("node", "nodes", "Node") most, so steered text is about that word.
    Without such a latent it is the most frequent one that fires on one word, on one token, or at all.
    """
    found = max(((_raised(build, row.latent) * share, -row.latent) for row, share in _families(build)), default=None)
    return -found[1] if found is not None else _frequent(build)


def _families(build: Build) -> list[tuple[LatentRow, float]]:
    """Return latents that raise forms of one word, with the share of their top tokens that are such forms."""
    rows = build.latents("kurtosis", True, Filters(flags=frozenset({ALIVE})), limit=_LOOKED_AT).rows
    shares = [(row, _family_share([build.vocabulary[token] for token in row.logit_pos[:_TOP]])) for row in rows]
    return [(row, share) for row, share in shares if share >= _FAMILY / _TOP and "dense" not in row.flags]


def _family_share(tokens: Sequence[Token]) -> float:
    words = [token.piece.decode("utf-8", errors="ignore").strip().lower() for token in tokens]
    stems = Counter(word[:_STEM] for word in words if len(word) >= _STEM and word.isalpha())
    return max(stems.values(), default=0) / _TOP


def _raised(build: Build, number: int) -> float:
    """Return by how much one unit of a latent raises its top logits on average."""
    latent = build.latent(number)
    values = [value for _, value in latent.logit_pos[:_TOP]] if latent is not None else []
    return sum(values) / len(values) if values else 0.0


def _frequent(build: Build) -> int | None:
    single = _not_dense(build, "single_token")
    alive = _not_dense(build, ALIVE)
    for rows, share in ((single, 0.0), (alive, 0.5)):
        for row in rows:
            if _fires_on_a_word(build, row.latent, share):
                return row.latent
        if rows is single and rows:
            return rows[0].latent
    return alive[0].latent if alive else None


def _not_dense(build: Build, flag: str) -> list[LatentRow]:
    rows = build.latents("density", True, Filters(flags=frozenset({flag})), limit=200).rows
    return [row for row in rows if "dense" not in row.flags]


def _fires_on_a_word(build: Build, number: int, share: float) -> bool:
    latent = build.latent(number)
    if latent is None or not latent.top_tokens:
        return False
    top = latent.top_tokens[0]
    return top.n >= share * (latent.n_tokens or 0) and build.vocabulary[top.token].piece.strip().isalpha()


def beginning(pieces: Sequence[bytes]) -> str:
    """Return the first words of a text, without half a word at the end if possible."""
    text = b"".join(pieces[:_PROMPT_TOKENS]).decode("utf-8", errors="ignore")
    following = b"".join(pieces[_PROMPT_TOKENS : _PROMPT_TOKENS + 4]).decode("utf-8", errors="ignore")
    if text[-1:].isalnum() and following[:1].isalnum():
        text = re.sub(r"(?<=\W)\w+$", "", text)
    return text.strip()
