"""Tests of the estimate of what a training costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.pages.runs.estimate import estimate, measured_speeds, usual_speed, work
from sae.lm.model_info import find_model
from sae.specs.registry import SweepSpec, demo_spec


def test_more_work_costs_more() -> None:
    info, spec = find_model("demo"), demo_spec()
    base = estimate(spec, info)
    for change in ({"tokens": 10_000_000}, {"n_latents": 32_768}, {"reuse": 1}, {"index_tokens": 4_000_000}):
        more = estimate(spec.model_copy(update=change), info)
        assert more.high_s > base.high_s
        assert more.disk > base.disk
    assert base.low_s < base.high_s


def test_the_speed_measured_here_is_used() -> None:
    config = {"n_latents": 4096, "d_model": 256, "site": {"layer": 2}, "training": {"seconds": 3600.0, "tokens": 1e6}}
    slow = estimate(demo_spec(), find_model("demo"), [{}, {"training": None}, config])
    assert slow.low_s > estimate(demo_spec(), find_model("demo")).low_s
    assert "workspace" in slow.basis


def test_one_slow_run_does_not_decide() -> None:
    def config(run: str, seconds: float) -> dict[str, object]:
        return {"n_latents": 4096, "d_model": 256, "site": {"layer": 2}, "run": run,
                "training": {"seconds": seconds, "tokens": 2e6}}

    info, usual = find_model("demo"), [config(f"r{i}", 100.0) for i in range(4)]
    expected = estimate(demo_spec(), info, usual)
    assert estimate(demo_spec(), info, [config("slow", 2000.0), *usual]) == replace(
        expected, basis=expected.basis.replace("4", "5"))
    sweep = [config("slow", 2000.0)] * 6  # one run, however many SAEs it made
    assert estimate(demo_spec(), info, [*sweep, *usual]).high_s == expected.high_s


def test_only_trainings_of_some_length_are_measures() -> None:
    whole = {"n_latents": 64, "d_model": 8, "site": {"layer": 0}, "training": {"seconds": 40.0, "tokens": 1000}}
    # per token 3 · 2 · 64 · 8 operations of the SAE and 24 · 8² of the language model
    assert measured_speeds([whole]) == [1000 * (3 * 1024 + 1536) / 40]
    twice = {**whole, "training": {"seconds": 40.0, "tokens": 1000, "reuse": 2, "saes_trained_together": 1}}
    assert measured_speeds([twice]) == [1000 * (3 * 1024 + 768) / 40]
    short = {**whole, "training": {"seconds": 20.0, "tokens": 1000}}
    broken: list[dict[str, Any]] = [{}, {"training": None}, {**whole, "training": {"seconds": "x", "tokens": 1}}, short]
    assert measured_speeds(broken) == []
    assert len(measured_speeds({**whole, "run": f"r{i}"} for i in range(20))) == 7


def test_a_guess_counts_while_there_are_few_measures() -> None:
    assert usual_speed([], 4.0) == (pytest.approx(4.0), 2.0)
    assert usual_speed([1.0], 4.0) == (pytest.approx(2.0), 2.0), "the geometric mean of two"
    assert usual_speed([1.0, 2.0, 8.0], 1e9) == (pytest.approx(2.0), 1.5)


def test_the_language_model_reads_once_for_all_saes_of_a_sweep() -> None:
    info = find_model("demo")
    one = SweepSpec(architecture=("topk",), n_latents=(1024,), k=(8,), index=False)
    two = SweepSpec(architecture=("topk",), n_latents=(1024,), k=(8, 16), index=False)
    assert work(one, info) < work(two, info) < 2 * work(one, info)
