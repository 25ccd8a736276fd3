"""Records of a dashboard of another program, in one shape for all formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae.formats.histogram_bins import Bins

MAX_LATENTS = 1 << 24


@dataclass(frozen=True)
class Feature:
    """Facts about a latent, without its contexts.  `more` is the extra key of our own exports."""

    latent: int
    density: float | None
    max_act: float | None
    acts: Bins | None
    logits: Bins | None
    pos: list[tuple[str, float]]
    neg: list[tuple[str, float]]
    neighbours: list[tuple[int, float]]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """A context of a latent.

    `low` and `high` bound the values of its group; a `low` below 0 or None marks the group of the top contexts.
    """

    latent: int
    tokens: list[str]
    values: list[float]
    low: float | None
    high: float | None
    at: int | None  # index of the token for which it was chosen
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Explained:
    """An explanation of a latent by an author."""

    latent: int
    text: str
    author: str


Record = Feature | Example | Explained


@dataclass
class Dashboard:
    """A dashboard: the header, and functions that read the records."""

    format: str
    model: str
    name: str
    layer: int
    hook: str
    dataset: str
    n_prompts: int | None
    context_length: int | None
    records: Callable[[Callable[[int], None]], Iterator[Record]]  # the argument is called with the bytes read
    n_bytes: int
    sample: Callable[[], Iterable[list[str]]]  # some contexts, to detect how tokens are written
    n_latents: int | None = None
    own: dict[str, Any] | None = None  # `meta` of the build, if the file is our own export
    escaped: bool = False  # whether tokens are written as our exports write them


def batch_number(path: Path) -> int:
    """Return the N of `batch-N…`, since sorting by name would put 10 before 2."""
    found = re.match(r"batch-(\d{1,9})", path.name)
    return int(found[1]) if found else -1
