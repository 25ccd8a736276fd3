"""Curves, refinement and the histogram of L0 against direct computations."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import torch

from sae.evaluation.measure import Result
from sae.evaluation.metrics import reconstruction_metrics
from sae.evaluation.reading import read_tokens
from sae.evaluation.recovery import progressive_recovery, refine
from sae.evaluation.recovery_curves import DEFINITIONS, Recovery, refinement_values


def silent(done: int, of: int) -> None: ...


@pytest.fixture(scope="module")
def subject(subject_of: Any, tiny_sae: Any) -> Any:
    return subject_of(tiny_sae(n_latents=40, k=5), [4, 0, 9, 2])


@pytest.fixture(scope="module")
def result(subject: Any) -> Result:
    return Recovery(n_tokens=100, refined_tokens=60, l0_tokens=10**6).run(subject, silent)


def test_curves_and_refinement_are_those_of_the_first_tokens(subject: Any, result: Result) -> None:
    x_ND = torch.cat([batch.x_ND for batch in read_tokens(subject, subject.contexts, silent)])[:100]
    found = {value.key: value.value for value in result.values}
    k = result.detail["own_k"]
    for rule in ("topk", "threshold"):
        curve = {point["k"]: point["fvu"] for point in result.detail["curves"][rule]}
        assert {1, 2, 4, 8, 16, 32, k, min(2 * k, 40)} == set(curve)
        assert curve == pytest.approx(progressive_recovery(subject.sae, x_ND, curve, rule), rel=1e-4)
        assert found[f"recovery_best_k_{rule}"] == min(curve, key=lambda at: curve[at])
        assert found[f"recovery_fvu_double_{rule}"] == pytest.approx(curve[min(2 * k, 40)] / curve[k])
    direct = refine(subject.sae, x_ND[:60])
    assert found["refinement_bias"] == pytest.approx(direct.bias, rel=1e-3)
    assert found["refinement_size"] == pytest.approx(direct.size, rel=1e-3)
    assert found["fvu_own"] == pytest.approx(reconstruction_metrics(subject.sae, [x_ND[:60]])["fvu"], rel=1e-4)
    assert found["fvu_refined"] < found["fvu_own"]  # type: ignore[operator]


def test_the_histogram_counts_every_token_and_bos_apart(subject: Any, result: Result) -> None:
    counts: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
    for batch in read_tokens(subject, subject.contexts, silent, with_bos=True):
        codes = subject.sae.codes(batch.x_ND)
        for token, position in enumerate(batch.position_N.tolist()):
            counts[position == 0][int((codes.token_N == token).sum())] += 1
    rows = {row["l0"]: row for row in result.detail["l0_histogram"]}
    assert {l0: row["n"] for l0, row in rows.items() if row["n"]} == counts[False]
    assert {l0: row["n_bos"] for l0, row in rows.items() if row["n_bos"]} == counts[True]
    found = {value.key: value for value in result.values}
    (bos,) = counts[True]  # all contexts begin with the same token
    assert found["l0_bos"].value == bos
    assert found["l0"].value == pytest.approx(sum(k * n for k, n in counts[False].items()) / counts[False].total())


def test_the_result_is_plain_json_with_a_definition_for_every_value(result: Result) -> None:
    assert {value.key for value in result.values} == set(DEFINITIONS)
    json.dumps(result.detail, allow_nan=False)


def test_an_sae_without_activations_has_no_bias(subject: Any) -> None:
    x_ND = next(iter(read_tokens(subject, subject.contexts, silent))).x_ND[:5]
    sae = type(subject.sae)(subject.sae.tensors(), subject.sae.config)
    sae.sparsity.threshold = 1e9
    values = {value.key: value for value in refinement_values(refine(sae, x_ND), 5)}
    assert values["refinement_bias"].value is None
    assert values["refinement_bias"].note == "no latent is active"
