"""The contract of a measure of an SAE: what it is given and what it returns.

A measure is one module of `sae.evaluation` with one class that satisfies `Measure`.  It holds at most one
batch of [tokens, latents] in memory, reports its progress (which raises to cancel), and is deterministic
for a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sae.autoencoder.artefact import Autoencoder
from sae.data.corpus import Corpus
from sae.lm.bridge import LanguageModel

Progress = Callable[[int, int], None]  # called with work done and work in total; may raise to stop


@dataclass(frozen=True)
class Subject:
    """An SAE with everything that a measure may read."""

    sae: Autoencoder
    model: LanguageModel
    corpus: Corpus
    contexts: np.ndarray  # [P], held-out contexts of the corpus that the measure reads
    seed: int
    build: Path | None = None  # the SAE's index, for measures that read top contexts
    labels: Path | None = None  # a file of texts or token annotations with labels


@dataclass(frozen=True)
class Value:
    """One number of a measure with its uncertainty."""

    key: str  # stable, snake_case, unique within the measure
    value: float | None  # None if the data do not say; `note` says why
    low: float | None = None  # 95% interval, where one is known
    high: float | None = None
    n: int | None = None  # size of the sample behind it
    note: str = ""


@dataclass(frozen=True)
class Result:
    """The values of a measure with the detail that its page shows."""

    measure: str
    values: tuple[Value, ...]
    detail: dict[str, Any] = field(default_factory=dict)  # plain JSON: figures, tables, best latents


class Measure(Protocol):
    """One way to judge an SAE."""

    name: str  # stable key, as in `--measures core,probing`

    def refuse(self, subject: Subject) -> str | None:
        """Return one line that says why the subject cannot be measured, or None."""
        ...

    def run(self, subject: Subject, progress: Progress) -> Result:
        """Measure the subject.  Raises UserError for input that cannot be measured."""
        ...
