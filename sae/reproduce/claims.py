"""A paper's claims next to what was found, and the rule that decides between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sae.reproduce.results import Comparison

Verdict = Literal["reproduced", "not reproduced", "not tested here"]


@dataclass(frozen=True)
class Claim:
    """One statement of a paper, what was found here, and the verdict."""

    says: str
    where: str  # section or figure of the paper
    found: str
    verdict: Verdict


def compared(says: str, where: str, what: str, comparisons: Sequence[Comparison | None]) -> Claim:
    """Judge a claim that one thing is better than another in several settings.

    It is reproduced if in every setting the 95% interval of the difference between paired seeds is on the claim's
    side.  It is not tested if there are no settings, or no seeds to compare.
    """
    known = [one for one in comparisons if one is not None]
    n_missing = len(comparisons) - len(known)
    missing = f"; {n_missing} of {len(comparisons)} settings could not be compared" if n_missing else ""
    if not known:
        return Claim(says, where, "There is nothing to compare.", "not tested here")
    listed = "; ".join(f"{one.setting}: {one.difference.text('+.1f', '%')}" for one in known)
    if all(one.difference.low is None for one in known):
        return Claim(says, where, f"{what}: {listed}{missing}. One seed shows no spread.", "not tested here")
    wins, losses = (sum(one.holds is side for one in known) for side in (True, False))
    open_ = len(known) - wins - losses
    counts = [f"holds in {wins} of {len(known)} settings"]
    if losses:
        counts.append(f"the opposite in {losses}")
    if open_:
        counts.append(f"the seeds do not decide in {open_}")
    verdict: Verdict = "reproduced" if wins == len(known) else "not reproduced"
    return Claim(says, where, f"{what}: {listed}{missing}. It {', '.join(counts)}.", verdict)


def untested(says: str, where: str, why: str) -> Claim:
    """Return a claim that this reproduction cannot test, with the reason."""
    return Claim(says, where, why, "not tested here")
