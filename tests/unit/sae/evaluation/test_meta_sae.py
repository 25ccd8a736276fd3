"""Tests of the meta-SAE: shared structure is found, random rows have little, scale and offset do not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae.evaluation.meta_sae import DEFINITIONS, MetaSae, centred_unit_rows
from tests.toys import toy_sae
from tests.unit.sae.evaluation.neighbours import subject_of

D = 24


def explained(tmp_path: Path, W_LD: torch.Tensor) -> dict[str, float]:
    sae = toy_sae("relu", n_latents=len(W_LD))
    sae.W_dec_LD = W_LD
    seen: list[int] = []
    result = MetaSae(steps=150, rows=128).run(subject_of(tmp_path, sae), lambda done, total: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == 300
    return {value.key: value.value for value in result.values if value.value is not None}


def test_rows_made_of_few_parts_are_explained_better_than_random_ones(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = torch.nn.functional.normalize(torch.randn(8, D, generator=generator), dim=1)
    which = torch.randint(0, 8, (128, 2), generator=generator)
    found = explained(tmp_path, parts[which[:, 0]] + parts[which[:, 1]])
    assert set(found) == set(DEFINITIONS)
    assert found["decoder_fraction_variance_explained"] > found["random_fraction_variance_explained"] + 0.15
    assert 0 < found["random_fraction_variance_explained"] < 0.8


def test_rows_are_compared_without_their_scale_and_mean() -> None:
    W = torch.randn(10, 5, generator=torch.Generator().manual_seed(0))
    rows = centred_unit_rows(W)
    assert torch.allclose(rows.mean(dim=0), torch.zeros(5), atol=1e-6)
    assert torch.allclose(centred_unit_rows(3 * W), rows, atol=1e-6)


@pytest.mark.parametrize(("n_latents", "refused"), [(63, True), (64, False)])
def test_a_dictionary_that_is_too_small_is_refused(tmp_path: Path, n_latents: int, refused: bool) -> None:
    assert (MetaSae().refuse(subject_of(tmp_path, toy_sae("relu", n_latents=n_latents))) is not None) is refused
