"""Tests of SAEs' numbers side by side: where they come from, seeds that share a point, and the Pareto front."""

from __future__ import annotations

from typing import Any

import pytest

from app.db.tables import Evaluation
from app.pages.explore.measured_saes import (
    Measured,
    MeasuredSae,
    Point,
    front,
    keys_in,
    points,
    published_rows,
    rows_of,
    site_of,
)
from sae.evaluation.published import PublishedResult
from tests.unit.app.pages.explore.records import sae


def row(name: str, group: str = "", **values: float) -> MeasuredSae:
    return MeasuredSae(name, f"/demo/{name}", "s", "TopK", 8, 2, None, {key: Measured(v) for key, v in values.items()},
                       group=group)


def point(name: str, x: Any, y: Any) -> Point:
    def measured(value: Any) -> Measured:
        return Measured(value) if isinstance(value, float) else Measured(*value)

    return Point(name, "", "TopK", measured(x), measured(y))


def test_measures_come_before_the_metrics_of_the_file() -> None:
    one = sae(metrics={"fvu": 0.25, "l0": 9.0, "tokens": 5}, site={"hook": "a", "out_hook": "b", "layer": 1})
    found = Evaluation(sae_id=one.id, measure="core", key="fvu", value=0.5, low=0.4, high=0.6, definition="share")
    (made,) = rows_of([one], {one.id: {"fvu": found}})
    assert made.values == {"fvu": Measured(0.5, 0.4, 0.6), "l0": Measured(9.0)}
    assert made.definitions == {"fvu": "share"}
    assert (made.site, site_of(one)) == ("a → b", "a → b")
    assert made.indexed


def test_trainings_that_differ_in_their_seed_share_a_point() -> None:
    def trained(name: str, seed: int, lr: float = 0.1) -> MeasuredSae:
        training = {"seed": seed, "lr": lr, "name": name, "seconds": seed * 7.5}
        return rows_of([sae(name, training=training, metrics={"fvu": 0.2 + seed / 10, "l0": 8.0})], {})[0]

    found = points([trained("a", 0), trained("b", 2), trained("c", 0, lr=0.5)], "l0", "fvu")
    assert [(one.name, one.n) for one in found] == [("a and 1 more seed", 2), ("c", 1)]
    assert found[0].y.value == pytest.approx(0.3)
    assert found[0].y.bounds == pytest.approx((0.2, 0.4))
    assert found[1].y.bounds == pytest.approx((0.2, 0.2))
    assert points([row("x", l0=1.0)], "l0", "fvu") == [], "it has only one of the numbers"


def test_saes_that_were_not_trained_here_are_never_merged() -> None:
    imported = [rows_of([sae(name, training={}, metrics={"fvu": 0.2, "l0": 8.0})], {})[0] for name in ("a", "b")]
    assert len(points(imported, "l0", "fvu")) == 2


def test_published_results_of_one_sae_share_a_row() -> None:
    def result(kind: str, **values: float) -> PublishedResult:
        return PublishedResult("m", "r/x", kind, "SAEBench", "hook", "batch_topk", 64, values=values)

    (made,) = published_rows([result("core", l0=3.0), result("tpp", tpp=0.5)])
    assert (made.name, made.architecture, made.published, made.href) == ("r/x", "BatchTopK", "SAEBench", "")
    assert made.values == {"l0": Measured(3.0), "tpp": Measured(0.5)}


def test_keys_of_most_rows_come_first() -> None:
    assert keys_in([row("a", l0=1.0, zeta=2.0), row("b", zeta=1.0)]) == ["zeta", "l0"]


def test_the_front_holds_what_no_other_beats_for_certain() -> None:
    best, worse, clear = point("best", 10.0, 0.1), point("worse", 11.0, 0.2), point("few", 5.0, 0.3)
    assert front([worse, best, clear], "low", "low") == [clear, best]
    assert front([worse, best, clear], "low", "high") == [clear], "fewest latents and the highest number"
    assert front([worse, best, clear], "high", "low") == [best, worse]
    assert front([worse, best], "", "low") == []
    near = point("near", (11.0, 9.0, 13.0), (0.11, 0.05, 0.15))
    wide = point("wide", (10.0, 9.0, 12.0), (0.1, 0.08, 0.12))
    assert front([wide, near], "low", "low") == [wide, near], "their intervals overlap in both"
    far = point("far", (11.0, 9.0, 13.0), (0.2, 0.18, 0.22))
    assert front([wide, far], "low", "low") == [wide], "one overlaps, but the other is worse for certain"
    assert front([best, point("same", 10.0, 0.1)], "low", "low")[1].name == "same", "equals are on it together"
