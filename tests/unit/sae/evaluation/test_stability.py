"""Tests of stability between seeds: copies, permutations, random dictionaries, a dense recomputation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae.evaluation.stability import DEFINITIONS, Stability, largest_cosines
from tests.unit.sae.evaluation.neighbours import saved, subject_of, toy


def test_a_permuted_copy_is_as_stable_as_can_be(tmp_path: Path) -> None:
    own, other = saved(tmp_path, "sae", toy()), toy()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    for name in ("W_enc_LD", "b_enc_L", "W_dec_LD"):
        setattr(other, name, getattr(other, name)[order])
    saved(tmp_path, "copy", other, seed=1)
    subject = subject_of(tmp_path, own)
    assert Stability().refuse(subject) is None
    result = Stability().run(subject, lambda *_: None)
    values = {value.key: value for value in result.values}
    assert set(values) == set(DEFINITIONS)
    assert values["mmcs"].value == pytest.approx(1.0, abs=1e-6)
    assert values["shared"].value == 1.0
    assert values["mmcs"].low is None
    assert values["mmcs_random"].value is not None
    assert 0.4 < values["mmcs_random"].value < 0.99  # the width is only 6
    assert sum(result.detail["histogram_of_largest_cosines"]) == result.detail["alive"]


def test_two_other_seeds_give_the_mean_and_an_interval(tmp_path: Path) -> None:
    own = saved(tmp_path, "sae", toy())
    others = [saved(tmp_path, f"s{seed}", toy(seed=seed), seed=seed) for seed in (1, 2)]
    subject = subject_of(tmp_path, own)
    value = Stability().run(subject, lambda *_: None).values[0]
    from sae.evaluation.siblings import alive_of

    mine, *alive = alive_of(subject, [own, *others], lambda *_: None)
    dense = []
    for sae, alive_L in zip(others, alive, strict=True):
        cosines = torch.nn.functional.cosine_similarity(
            own.W_dec_LD[mine][:, None], sae.W_dec_LD[alive_L][None], dim=2)
        dense.append(float(cosines.max(dim=1).values.mean()))
    assert value.value == pytest.approx(sum(dense) / 2, abs=1e-6)
    assert value.low is not None
    assert value.low == pytest.approx(sum(dense) / 2 - 12.706 * abs(dense[0] - dense[1]) / 2, abs=1e-5)


def test_without_another_seed_it_says_what_is_missing(tmp_path: Path) -> None:
    said = Stability().refuse(subject_of(tmp_path, saved(tmp_path, "sae", toy())))
    assert said is not None
    assert "second SAE whose training differs in the seed alone" in said
    assert largest_cosines(torch.zeros(0, 3), torch.ones(2, 3)).shape == (0,)
