"""Tests of the benchmark: every trained architecture is between the random and the perfect dictionary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sae.errors import UserError
from sae.evaluation.synthetic.benchmark import ARCHITECTURES, PROFILES, run, spec_of, summary
from sae.evaluation.synthetic.world import Recipe

TINY = replace(
    PROFILES["small"], n_latents=32, k=2, tokens=256 * 90, eval_samples=4_000,
    recipe=Recipe(n_features=64, d_model=24, max_probability=0.1, min_probability=0.01, roots=8, branching=4, depth=1,
                  rank=4, orthogonal_steps=50, orthogonal_lr=3e-3))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return run(TINY, ARCHITECTURES, 1, torch.device("cpu"), lambda *_: None)


def test_all_six_are_between_chance_and_perfect(rows: list[dict[str, Any]]) -> None:
    by_name = {row["dictionary"]: row for row in rows}
    assert list(by_name) == ["perfect", "random", *ARCHITECTURES]
    for key in ("mcc", "f1"):
        assert by_name["perfect"][key] == pytest.approx(1.0, abs=1e-6)
        for name in ARCHITECTURES:
            assert by_name["random"][key] + 0.05 < by_name[name][key] < 0.98, (name, key)


def test_the_summary_gives_an_interval_from_two_seeds_on(rows: list[dict[str, Any]]) -> None:
    twice = [*rows, {**rows[2], "seed": 1, "mcc": rows[2]["mcc"] + 0.1}]
    first, *_ = [line for line in summary(twice) if line["dictionary"] == "batch_topk"]
    assert first["seeds"] == 2
    assert first["mcc"]["mean"] == pytest.approx(rows[2]["mcc"] + 0.05)
    assert first["mcc"]["half"] == pytest.approx(12.706 * 0.1 / 2, rel=1e-4)
    assert summary(rows)[0]["mcc"]["half"] is None


def test_profiles_are_valid_specs_and_full_is_the_published_one() -> None:
    for profile in PROFILES.values():
        for architecture in ARCHITECTURES:
            assert spec_of(profile, architecture, 1).seed == 1
    full = PROFILES["full"]
    assert (full.n_latents, full.k, full.tokens, full.batch_tokens, full.lr) == (4096, 25, 200_000_000, 1024, 3e-4)
    assert full.published["batch_topk"]["mcc"] == 0.757


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(UserError, match="architectures: topkk is not one of"):
        run(TINY, ["topkk"], 1, torch.device("cpu"), lambda *_: None)
