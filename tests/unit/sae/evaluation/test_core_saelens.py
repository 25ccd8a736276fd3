"""The core measure against SAELens' own numbers, and the exact cause of each difference.

`tests/fixtures/make/saelens_core.py` wrote the expected numbers with SAELens itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.data.corpus import Corpus
from sae.evaluation.core import Core
from sae.evaluation.measure import Result, Subject
from sae.evaluation.saebench import CORE
from tests.fixtures.make.core_subject import HOOK, TEXT, L, P, S, rows, tensors

if TYPE_CHECKING:
    from sae.lm.bridge import LanguageModel

THEIRS = json.loads((Path(__file__).parents[3] / "fixtures" / "saelens_core" / "expected.json").read_text())
# Numbers whose formula in SAELens is right and the same as ours.
SAME = ("ce_loss_without_sae", "ce_loss_with_sae", "explained_variance", "explained_variance_legacy", "mse", "cossim",
        "l2_norm_in", "l2_norm_out", "l2_ratio", "l0", "l1")


@pytest.fixture(scope="module")
def subject(demo_lm: LanguageModel) -> Subject:
    sae = Autoencoder(tensors(demo_lm.info.d_model), {
        "schema_version": 1, "id": "demo/formula", "model": {"name": "demo", "id": "demo"}, "architecture": "relu",
        "site": {"layer": 2, "hook": HOOK}, "n_latents": L, "d_model": demo_lm.info.d_model, "k": None,
        "normalize": "none", "context_length": S, "threshold": None})
    tokens_PS = np.array(rows(demo_lm.encode(TEXT)), dtype=np.uint16)
    corpus = Corpus(Path("text"), tokens_PS, np.full(P, S, dtype=np.int32), np.arange(P, dtype=np.int32),
                    np.zeros(P, dtype=np.int64), [f"{i}.py" for i in range(P)], np.ones(P, dtype=np.bool_),
                    {"fingerprint": "f", "text": "code"})
    return Subject(sae, demo_lm, corpus, np.arange(P), 0)


@pytest.fixture(scope="module")
def result(subject: Subject) -> Result:
    return Core(n_tokens=10**6, ce_tokens=10**6).run(subject, lambda done, of: None)


@pytest.fixture(scope="module")
def ours(result: Result) -> dict[str, float]:
    by_key = {value.key: value.value for value in result.values}
    return {theirs: float(by_key[key] or 0.0) for key, (_, theirs) in CORE.items() if key in by_key}


@pytest.mark.parametrize("key", SAME)
def test_numbers_with_a_right_formula_are_saelens_own(key: str, ours: dict[str, float]) -> None:
    assert ours[key] == pytest.approx(THEIRS["by_prompt"][key], rel=1e-4)


def test_numbers_of_each_latent_are_saelens_own(result: Result) -> None:
    columns = result.detail["latents"]
    for key, values in THEIRS["latents"].items():
        for here, there in zip(columns[key], values, strict=True):
            assert here == (None if there is None else pytest.approx(there, rel=1e-4, abs=1e-6)), key


def test_the_bias_is_one_quotient_of_sums_where_saelens_averages_over_batches(ours: dict[str, float]) -> None:
    key = "relative_reconstruction_bias"
    assert ours[key] == pytest.approx(THEIRS["at_once"][key], rel=1e-4)
    assert abs(THEIRS["by_prompt"][key] / ours[key] - 1) > 5e-4


def log_probabilities(subject: Subject, change: Any) -> Tensor:
    """Return log-probabilities in float64 at every position, [P, S, V]; `change` gets and returns [P, S, D]."""
    tokens_PS = torch.from_numpy(subject.corpus.tokens.astype(np.int64))
    logits: Tensor = subject.model.logits(tokens_PS, {HOOK: change} if change else {})
    return logits.double().log_softmax(dim=-1)


def test_kl_and_zero_ablation_differ_from_saelens_by_these_positions_alone(
    subject: Subject, ours: dict[str, float]
) -> None:
    """SAELens averages KL also over the last position, which predicts nothing, and sets BOS to zero, too."""
    def with_sae(x_PSD: Tensor) -> Tensor:
        out_PSD = subject.sae.reconstruct(x_PSD.flatten(0, 1)).reshape(x_PSD.shape)
        return torch.cat([x_PSD[:, :1], out_PSD[:, 1:]], dim=1)

    def zero_but_bos(x_PSD: Tensor) -> Tensor:
        return torch.cat([x_PSD[:, :1], torch.zeros_like(x_PSD[:, 1:])], dim=1)

    clean = log_probabilities(subject, None)
    truth_PS1 = torch.from_numpy(subject.corpus.tokens.astype(np.int64))[:, 2:, None]

    def kl_at(change: Any) -> Tensor:
        return (clean.exp() * (clean - log_probabilities(subject, change))).sum(dim=-1)[:, 1:]

    def ce(change: Any) -> float:
        return -float(log_probabilities(subject, change)[:, 1:-1].gather(2, truth_PS1).mean())

    theirs = THEIRS["by_prompt"]
    kl_sae_PS, kl_all_PS, kl_zero_PS = kl_at(with_sae), kl_at(torch.zeros_like), kl_at(zero_but_bos)
    # Their variants, computed here, are their numbers.
    assert float(kl_sae_PS.mean()) == pytest.approx(theirs["kl_div_with_sae"], rel=1e-4)
    assert float(kl_all_PS.mean()) == pytest.approx(theirs["kl_div_with_ablation"], rel=1e-4)
    assert ce(torch.zeros_like) == pytest.approx(theirs["ce_loss_with_ablation"], rel=1e-4)
    # Without the last position, and with BOS as it is, they are ours.
    assert float(kl_sae_PS[:, :-1].mean()) == pytest.approx(ours["kl_div_with_sae"], rel=1e-4)
    assert float(kl_zero_PS[:, :-1].mean()) == pytest.approx(ours["kl_div_with_ablation"], rel=1e-4)
    assert ce(zero_but_bos) == pytest.approx(ours["ce_loss_with_ablation"], rel=1e-4)
    # Neither cause is too small to see.
    for key in ("kl_div_with_sae", "kl_div_with_ablation", "ce_loss_with_ablation"):
        assert abs(ours[key] / theirs[key] - 1) > 1e-3, key
