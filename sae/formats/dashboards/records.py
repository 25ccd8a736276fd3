"""What a dashboard of another program says, in one shape."""

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
    """What a file says of a latent, its contexts apart.  `more` is our own exports' extra column."""

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
    """A context of a latent.  `low`, `high` bound its group's values; −1 (or None) says the strongest ones."""

    latent: int
    tokens: list[str]
    values: list[float]
    low: float | None
    high: float | None
    at: int | None  # the token for which it was chosen
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Explained:
    """Somebody's words for a latent."""

    latent: int
    text: str
    author: str


Record = Feature | Example | Explained


@dataclass
class Dashboard:
    """What a reader found out before the records, and the records."""

    format: str
    model: str
    name: str
    layer: int
    hook: str
    dataset: str
    n_prompts: int | None
    context_length: int | None
    records: Callable[[Callable[[int], None]], Iterator[Record]]  # told the bytes read
    n_bytes: int
    sample: Callable[[], Iterable[list[str]]]  # some contexts, to tell how tokens are written
    n_latents: int | None = None
    own: dict[str, Any] | None = None  # `meta` of the build, where we exported it ourselves
    escaped: bool = False  # whether tokens are written as our exports write them


def batch_number(path: Path) -> int:
    """The N of `batch-N…`: text order would put 10 before 2."""
    found = re.match(r"batch-(\d{1,9})", path.name)
    return int(found[1]) if found else -1
