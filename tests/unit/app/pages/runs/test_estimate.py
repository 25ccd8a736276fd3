"""Tests of the estimate of what a training costs."""

from __future__ import annotations

from dataclasses import replace

from app.pages.runs.estimate import estimate
from sae.lm.model_info import find_model
from sae.specs.registry import demo_spec


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
