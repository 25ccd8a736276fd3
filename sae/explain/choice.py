"""The latents that a run explains, by a short text.  No torch.

    20           twenty random alive latents        all        every alive latent
    3,5,7        these latents                      #3         this latent
    densest:50   the 50 that fire most often        random:50  50 random alive latents
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection

from sae.errors import UserError
from sae.store.build import Build
from sae.store.latent_query import ALIVE, Filters

_COUNT = re.compile(r"(?:(random|densest):)?(\d{1,9})")
_LIST = re.compile(r"#?\d{1,9}(\s*,\s*#?\d{1,9})*\s*,?")
_HELP = "give a number of latents, all, densest:n, random:n, or latents such as 3,5,7 or #3"


def check_choice(text: str) -> None:
    """Raise UserError (field `latents`) unless the text is a choice."""
    text = text.strip()
    if text != "all" and not _COUNT.fullmatch(text) and not _LIST.fullmatch(text):
        raise UserError(f"latents: {text[:60]!r} is no choice of latents; {_HELP}", "latents")


def choose_latents(build: Build, text: str, seed: int = 0, among: Collection[int] | None = None) -> list[int]:
    """Return the chosen latents by number, only those of `among` if it is given.

    Raises UserError (field `latents`).
    """
    check_choice(text)
    text = text.strip()
    if among is not None:
        return _choose_among(build, text, seed, frozenset(among))
    if text == "all":
        return _densest(build, build.n_latents)
    if match := _COUNT.fullmatch(text):
        n = int(match[2])
        return _densest(build, n) if match[1] == "densest" else sorted(build.random_latents(n, seed))
    chosen = [int(word.strip().lstrip("#")) for word in text.split(",") if word.strip()]
    for latent in chosen:
        if latent >= build.n_latents:
            raise UserError(f"latents: there is no latent {latent}; the last one is {build.n_latents - 1}", "latents")
    return list(dict.fromkeys(chosen))


def _choose_among(build: Build, text: str, seed: int, among: frozenset[int]) -> list[int]:
    match = _COUNT.fullmatch(text)
    if text != "all" and not match:
        return [latent for latent in choose_latents(build, text) if latent in among]
    known = [latent for latent in _densest(build, build.n_latents) if latent in among]
    if match is None or len(known) <= int(match[2]):
        return known
    n = int(match[2])
    return known[:n] if match[1] == "densest" else sorted(random.Random(seed).sample(sorted(known), n))


def _densest(build: Build, n: int) -> list[int]:
    found: list[int] = []
    cursor = None
    while len(found) < n:
        rows = build.latents("density", True, Filters(flags=frozenset({ALIVE})), cursor=cursor,
                             limit=min(1000, n - len(found)))
        found += [row.latent for row in rows.rows]
        cursor = rows.next_cursor
        if cursor is None:
            break
    return found
