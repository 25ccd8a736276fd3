"""Refinement finds the least-squares optimum; L1 shrinks and TopK does not; Multi-TopK stays good beyond k."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.autoencoder.architectures import REGISTRY
from sae.autoencoder.artefact import Autoencoder
from sae.evaluation.metrics import reconstruction_metrics
from sae.evaluation.recovery import progressive_recovery, refine
from tests.toys import D, toy_sae
from tests.unit.sae.planted import artefact_of, mixtures, trained_on

X_ND, _ = mixtures(6000, 40, 32)
SAMPLE_ND = X_ND[:600]


@cache
def sae_of(architecture: str, **changes: float) -> Autoencoder:
    return artefact_of(*trained_on(X_ND, architecture, **changes))


def best_values(W_SD: Tensor, wanted_D: Tensor) -> Tensor:
    """Solve non-negative least squares by trying every support."""
    best, found = float(wanted_D.square().sum()), torch.zeros(len(W_SD), dtype=torch.float64)
    for size in range(1, len(W_SD) + 1):
        for support in itertools.combinations(range(len(W_SD)), size):
            rows = W_SD[list(support)]
            values = torch.linalg.lstsq(rows.T, wanted_D).solution
            error = float((wanted_D - values @ rows).square().sum())
            if bool((values >= 0).all()) and error < best:
                best, found = error, torch.zeros(len(W_SD), dtype=torch.float64).index_put_(
                    (torch.tensor(support),), values)
    return found


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), normalize=st.sampled_from(["none", "layer_norm"]))
def test_refined_values_are_the_best_non_negative_ones(seed: int, normalize: str) -> None:
    sae = toy_sae("topk", normalize=normalize, k=4, seed=seed)
    x_ND = 4 * torch.randn(12, D, generator=torch.Generator().manual_seed(seed))
    refined = refine(sae, x_ND, iterations=2000)
    y_ND, _, _ = sae.normalizer.apply(x_ND)
    assert torch.equal(refined.after.latent_N, refined.before.latent_N)
    for token in range(len(x_ND)):
        mine = refined.after.where(refined.after.token_N == token)
        W_SD = sae.W_dec_LD[mine.latent_N].double()
        wanted_D = (y_ND[token] - sae.b_dec_D).double()
        expected = best_values(W_SD, wanted_D) @ W_SD
        got = mine.value_N.double() @ W_SD
        assert float((wanted_D - got).norm()) == pytest.approx(float((wanted_D - expected).norm()), rel=1e-3, abs=1e-3)
    assert refined.fvu_after <= refined.fvu_before + 1e-6


def test_l1_shrinks_activations_and_topk_does_not() -> None:
    """Check that refinement raises ReLU's values, more with a higher coefficient, and hardly moves TopK's."""
    weak, strong = (refine(sae_of("relu", l1_coefficient=weight), SAMPLE_ND) for weight in (0.05, 0.1))
    topk = refine(sae_of("topk"), SAMPLE_ND)
    assert weak.bias > 0.07
    assert strong.bias > 1.4 * weak.bias
    assert abs(topk.bias) < 0.03
    assert all(result.fvu_after < result.fvu_before for result in (weak, strong, topk))
    assert strong.quantiles([0.5])[0] > 0.05
    assert abs(topk.quantiles([0.5])[0]) < 0.05


@pytest.mark.parametrize("architecture", REGISTRY)
def test_recovery_at_the_sae_s_own_k_is_its_fvu(architecture: str) -> None:
    """Check that the SAE's own rule, or all positive latents, gives the SAE's own FVU."""
    sae = sae_of(architecture)
    own = float(reconstruction_metrics(sae, iter([SAMPLE_ND]))["fvu"])
    if architecture == "topk":
        assert progressive_recovery(sae, SAMPLE_ND, [2])[2] == pytest.approx(own, rel=1e-5)
    elif sae.sparsity.has_threshold:
        strongest = sae.pre_activations(SAMPLE_ND).relu().reshape(-1).sort(descending=True).values
        sae.sparsity.threshold = float(strongest[2 * len(SAMPLE_ND)])
        own = float(reconstruction_metrics(sae, iter([SAMPLE_ND]))["fvu"])
        assert progressive_recovery(sae, SAMPLE_ND, [2], "threshold")[2] == pytest.approx(own, rel=1e-5)
    elif architecture in ("relu", "gated"):
        for rule in ("topk", "threshold"):
            assert progressive_recovery(sae, SAMPLE_ND, [64], rule)[64] == pytest.approx(own, rel=1e-5)  # type: ignore[arg-type]


def test_multi_topk_stays_good_beyond_k_where_topk_gets_worse() -> None:
    """Check the shape of the paper's figure 10: TopK overfits to k, Multi-TopK is a little worse at k itself."""
    ks = [1, 2, 3, 4, 8, 16, 32]
    plain, multi = (progressive_recovery(sae_of(name), SAMPLE_ND, ks) for name in ("topk", "multi_topk"))
    by_theta = progressive_recovery(sae_of("multi_topk"), SAMPLE_ND, ks, "threshold")
    assert plain[1] > plain[2] > plain[4]
    assert plain[16] > 2 * plain[4]  # TopK gets worse well beyond k …
    assert max(multi[k] for k in (8, 16, 32)) < multi[4] * 1.6  # … and Multi-TopK hardly does
    assert all(multi[k] < 0.6 * plain[k] for k in (8, 16, 32))
    assert multi[2] == pytest.approx(plain[2], rel=0.1)
    assert by_theta[8] < 0.6 * plain[8]


def test_each_rule_keeps_the_requested_number() -> None:
    """Check that `topk` keeps exactly k', `threshold` k' on average, and neither keeps what is not positive."""
    sae = toy_sae("batch_topk", n_latents=24, threshold=0.0)
    x_ND = torch.randn(50, D, generator=torch.Generator().manual_seed(1))
    pre_NL = sae.pre_activations(x_ND).relu()
    for k in (1, 3, 24):
        kept_NL = pre_NL * (pre_NL >= pre_NL.sort(dim=1, descending=True).values[:, k - 1 : k])
        output_ND = kept_NL @ sae.W_dec_LD + sae.b_dec_D
        expected = (x_ND - output_ND).square().sum() / (x_ND - x_ND.mean(dim=0)).square().sum()
        assert progressive_recovery(sae, x_ND, [k])[k] == pytest.approx(float(expected), rel=1e-4)
        ordered = pre_NL.reshape(-1).sort(descending=True).values
        theta = float(ordered[k * 50]) if k < 24 else 0.0
        output_ND = (pre_NL * (pre_NL > theta)) @ sae.W_dec_LD + sae.b_dec_D
        expected = (x_ND - output_ND).square().sum() / (x_ND - x_ND.mean(dim=0)).square().sum()
        assert progressive_recovery(sae, x_ND, [k], "threshold")[k] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("ks", [[], [0], [25]])
def test_other_numbers_of_latents_are_refused(ks: list[int]) -> None:
    with pytest.raises(ValueError, match="between 1 and 24"):
        progressive_recovery(toy_sae(), torch.randn(4, D), ks)
