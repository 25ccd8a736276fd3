"""The parts of a paper that a reproduction needs: its grid, its claims and its figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sae.reproduce.claims import Claim
from sae.reproduce.figures import Figure
from sae.reproduce.results import Results
from sae.reproduce.setup import Cell, Setup


@dataclass(frozen=True)
class Paper:
    """One paper that `saescope reproduce` knows."""

    name: str  # as on the command line
    title: str
    reference: str
    differs: str  # the differences between the paper's experiments and these, in whole sentences
    cells: Callable[[Setup], list[Cell]]
    claims: Callable[[Results, Setup], list[Claim]]
    figures: Callable[[Results, Setup], list[Figure]]
    defaults: dict[str, Any] = field(default_factory=dict)  # settings that differ from the defaults of `Setup`
    quick: dict[str, Any] = field(default_factory=dict)  # settings of the quick grid
