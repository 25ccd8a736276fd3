"""The strengths that a sweep tries, and what it concludes from them."""

from __future__ import annotations

import pytest

from app.pages.steer.form import Chip, SaeFacts
from app.pages.steer.sweep_strengths import baseline, default_strengths, strengths_text, verdict
from app.worker.protocol import Cell, Text
from sae.steering.measurement_requests import SweepRequest
from sae.steering.request import MAX_STRENGTH, Intervention, SteerRequest

PLAIN = Cell(strength=None, text=Text(), concept=0.1, repetition=0.1, perplexity=5.0)


def chip(breaks_at: float, mode: str = "add") -> Chip:
    """A latent whose vector has half the usual residual norm at the strength `breaks_at`."""
    facts = SaeFacts("demo/x", "demo", 2, 60, 256, "none", "build-1", median_norm=10.0)
    return Chip("demo/x", "3", mode, facts=facts, max_act=5.0 / breaks_at)


def cell(strength: float, concept: bool = False, reads: bool = True, repeats: bool = False) -> Cell:
    return Cell(strength=strength, text=Text(), concept=0.3 if concept else 0.1, repetition=0.9 if repeats else 0.1,
                perplexity=6.0 if reads else 50.0)


@pytest.mark.parametrize("breaks_at", [0.002, 0.78, 4.0, 30.0])
def test_the_strengths_follow_from_where_text_breaks(breaks_at: float) -> None:
    strengths = default_strengths(chip(breaks_at))
    assert strengths == sorted(set(strengths))
    sizes = [abs(s) for s in strengths]
    assert min(sizes) == pytest.approx(0.1 * breaks_at, rel=0.06)
    assert max(sizes) == pytest.approx(1.5 * breaks_at, rel=0.06)
    assert strengths[0] == -max(sizes)
    assert sum(0 < s < breaks_at for s in strengths) >= 6  # most of them where something may be usable
    request = SteerRequest(model="demo", prompt="x", interventions=(
        Intervention(sae="demo/x", layer=2, latent=3, max_act=1.0),))
    SweepRequest(request=request, strengths=tuple(strengths))


def test_a_factor_is_as_far_from_one() -> None:
    assert default_strengths(chip(4.0, "scale"))[0] == -5.0
    assert 1.4 in default_strengths(chip(4.0, "scale"))


def test_strengths_stay_within_the_limits_and_need_no_norm() -> None:
    assert default_strengths(chip(1e6)) == [-MAX_STRENGTH, MAX_STRENGTH]
    assert default_strengths(Chip("demo/x", "3")) == default_strengths(chip(4.0))
    assert strengths_text([-0.5, 2.0]) == "−0.5 2"


def test_neighbouring_usable_strengths_make_a_range() -> None:
    found = verdict([PLAIN, cell(-0.2, True), cell(-0.1, True), cell(0.1, True), cell(0.4), cell(0.5, True),
                     cell(0.7, True), cell(0.8, True, reads=False)], "add")
    assert found is not None
    assert found.usable == [(-0.2, -0.1), (0.1, 0.1), (0.5, 0.7)]  # no range goes through 0
    assert found.further == []


@pytest.mark.parametrize(("cells", "low", "high"), [
    ([cell(0.2), cell(0.6, True, reads=False), cell(1, True, reads=False)], 0.2, 0.6),
    ([cell(0.2), cell(0.6, True, repeats=True)], 0.2, 0.6),
    ([cell(-4, reads=False), cell(1, True, reads=False), cell(2, True, reads=False)], 0.1, 1.0),  # all too strong
    ([cell(0.5), cell(1.0)], 1.0, 3.0),  # all too weak
    ([cell(-1.0), cell(-0.5)], -3.0, -1.0),  # the latent's other side, where nothing else was tried
])
def test_without_a_usable_one_it_says_where_to_look(cells: list[Cell], low: float, high: float) -> None:
    found = verdict([PLAIN, *cells], "add")
    assert found is not None
    assert found.usable == []
    assert (found.further[0], found.further[-1]) == (low, high)
    assert len(found.further) > 4
    assert found.why


def test_one_lucky_text_is_no_measure_for_the_others() -> None:
    lucky = Cell(strength=None, text=Text(), concept=0.4, repetition=0.1, perplexity=1.5)
    hardly = [cell(-0.1), cell(0.1)]  # a tenth of the largest strength at most
    cells = [lucky, *hardly, cell(0.5, True), cell(1.0, True, reads=False)]
    plain = baseline(cells, "add")
    assert (plain.concept, plain.perplexity) == (0.1, 6.0)
    found = verdict(cells, "add")
    assert found is not None
    assert found.usable == [(0.5, 0.5)]
    assert verdict([lucky, *cells[3:]], "add") != found  # nothing else to compare with


def test_a_gap_that_is_narrow_already_is_not_swept_again() -> None:
    found = verdict([PLAIN, cell(0.5), cell(0.54, True, reads=False)], "add")
    assert found is not None
    assert (found.usable, found.further) == ([], [])


def test_factors_are_judged_from_one() -> None:
    found = verdict([PLAIN, cell(1.5), cell(3, True, reads=False)], "scale")
    assert found is not None
    assert (found.further[0], found.further[-1]) == (1.5, 3)


def test_nothing_measured_gives_no_verdict() -> None:
    empty = Cell(strength=1.0, text=Text(), concept=None, repetition=None, perplexity=None)
    assert verdict([PLAIN, empty], "add") is None
    assert verdict([empty, cell(1, True)], "add") is None
