"""Tests of the estimate of what a training costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.pages.runs import estimate as module
from app.pages.runs.estimate import estimate, measured_speeds, usual_speed, work
from sae.lm.model_info import find_model
from sae.specs.registry import SweepSpec, demo_spec
from sae.training.memory import fitting_bytes


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


def test_the_memory_of_a_gpu_is_by_the_formula_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    info, spec = find_model("demo"), demo_spec().model_copy(update={"device": "cuda"})
    assert estimate(demo_spec().model_copy(update={"device": "cpu"}), info).gpu_memory is None
    monkeypatch.setattr(module, "free_gpu_memory", lambda: 141e9)
    found = estimate(spec, info)
    assert found.gpu_memory is not None
    step = fitting_bytes([spec], info.d_model)
    assert step < found.gpu_memory < step + 1e9, "the language model and its activations are small here"
    assert found.too_large is None
    monkeypatch.setattr(module, "free_gpu_memory", lambda: found.gpu_memory - 1e6)
    assert (estimate(spec, info).too_large or "").startswith("n_latents: training needs about")
    monkeypatch.setattr(module, "free_gpu_memory", lambda: None)
    assert estimate(spec, info).too_large is None


@pytest.mark.parametrize(("output", "free"), [("81000\n40000\n", 81000 * 2**20), ("", None), ("[N/A]\n", None)])
def test_the_driver_says_how_much_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, free: float | None
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{output}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert module.free_gpu_memory() == free
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.free_gpu_memory() is None


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
