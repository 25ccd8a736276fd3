"""Sums of losses by context; their values are tested with `sae.evaluation.metrics` and `sae.evaluation.core`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sae.evaluation.substitution import recovered, substitution_sums


def test_a_context_s_sums_do_not_depend_on_the_others(subject_of: Any, tiny_sae: Any) -> None:
    sae = tiny_sae()
    subject = subject_of(sae)
    mean_D = torch.zeros(sae.d_model)
    together = substitution_sums(subject.model, [sae], subject.corpus, np.array([0, 4, 9]), mean_D, with_kl=True)
    for i, row in enumerate((0, 4, 9)):
        alone = substitution_sums(subject.model, [sae], subject.corpus, np.array([row]), mean_D, with_kl=True)
        assert alone.predicted_P[0] == together.predicted_P[i] == subject.corpus.length[row] - 2
        for name in ("clean", "zero", "mean", 0):
            assert alone.ce[name][0] == pytest.approx(together.ce[name][i], rel=1e-5)
        for name in ("zero", "mean", 0):
            assert alone.kl[name][0] == pytest.approx(together.kl[name][i], rel=1e-4)
            assert together.kl[name][i] > 0
    assert np.allclose(together.kl["zero"], together.kl["mean"])  # the mean is zero here


def test_no_kl_is_computed_unless_it_is_asked_for(subject_of: Any, tiny_sae: Any) -> None:
    sae = tiny_sae()
    subject = subject_of(sae, [0])
    assert substitution_sums(
        subject.model, [sae], subject.corpus, subject.contexts, torch.zeros(sae.d_model)).kl == {}


def test_the_share_recovered_is_unknown_if_an_ablation_changes_nothing() -> None:
    assert recovered(3.0, 2.0, 1.0) == 0.5
    assert recovered(1.0, 2.0, 1.0) is None
