"""The core measure against dense float64 formulas over all tokens at once."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sae.errors import Cancelled
from sae.evaluation.core import DEFINITIONS, Core
from sae.evaluation.measure import Result
from sae.evaluation.metrics import cross_entropy_metrics
from sae.evaluation.reading import read_tokens
from sae.evaluation.saebench import KINDS


def silent(done: int, of: int) -> None: ...


@pytest.fixture(scope="module")
def sae(tiny_sae: Any) -> Any:
    made = tiny_sae("batch_topk", "layer_norm", n_latents=64)
    made.b_enc_L[3] = -100.0  # one latent that never fires
    return made


@pytest.fixture(scope="module")
def result(sae: Any, subject_of: Any) -> Result:
    return Core(n_tokens=10**6, ce_tokens=100).run(subject_of(sae), silent)


def dense(subject: Any) -> tuple[torch.Tensor, ...]:
    """Return targets [N, D], dense activations [N, L] and reconstructions [N, D] in float64, and the contexts [N]."""
    batches = list(read_tokens(subject, subject.contexts, silent))
    x_ND = torch.cat([batch.x_ND for batch in batches])
    codes = subject.sae.codes(x_ND)
    acts_NL = torch.zeros(len(x_ND), subject.sae.n_latents, dtype=torch.float64)
    acts_NL[codes.token_N, codes.latent_N] = codes.value_N.double()
    return (x_ND.double(), acts_NL, subject.sae.reconstruct(x_ND).double(),
            torch.cat([batch.context_N for batch in batches]))


def test_sums_over_blocks_give_the_formulas_over_all_tokens(result: Result, sae: Any, subject_of: Any) -> None:
    x, acts, out, context_N = dense(subject_of(sae))
    found = {value.key: value.value for value in result.values}
    error_N, norm_N, out_N = (x - out).square().sum(1), x.norm(dim=1), out.norm(dim=1)
    around = (x - x.mean(0)).square().sum()
    density_L = (acts > 0).double().mean(0)
    expected = {
        "fvu": error_N.sum() / around, "explained_variance": 1 - error_N.sum() / around,
        "nmse": error_N.sum() / x.square().sum(), "mse": error_N.mean(),
        "cossim": ((x * out).sum(1) / norm_N / out_N).mean(), "l2_norm_in": norm_N.mean(), "l2_norm_out": out_N.mean(),
        "l2_ratio": (out_N / norm_N).mean(), "relative_reconstruction_bias": out.square().sum() / (x * out).sum(),
        "l0": (acts > 0).sum(1).double().mean(), "l0_std": (acts > 0).sum(1).double().std(correction=0),
        "l1": acts.sum(1).mean(), "alive_share": (density_L > 0).double().mean(),
        "freq_over_1_percent": (density_L > 0.01).double().mean(),
        "freq_over_10_percent": (density_L > 0.1).double().mean(),
        "normalized_freq_over_1_percent": density_L[density_L > 0.01].sum() / density_L.sum(),
        "normalized_freq_over_10_percent": density_L[density_L > 0.1].sum() / density_L.sum()}
    for side, W in (("encoder", sae.W_enc_LD), ("decoder", sae.W_dec_LD)):
        unit = F.normalize(W.double(), dim=1)
        expected[f"average_max_{side}_cosine_sim"] = (unit @ unit.T - 3 * torch.eye(64)).max(dim=1).values.mean()
    expected["encoder_decoder_cosine"] = F.cosine_similarity(sae.W_enc_LD, sae.W_dec_LD).mean()
    assert expected["alive_share"] < 1
    for key, value in expected.items():
        assert found[key] == pytest.approx(float(value), rel=1e-4), key
    # The legacy form has the mean of each block of contexts in place of the mean of all tokens.
    n_blocks = result.detail["blocks"]
    per_block = -(-result.detail["contexts"] // n_blocks)
    block_N = torch.unique(context_N, return_inverse=True)[1] // per_block
    shares = [1 - error_N[block_N == b] / (x[block_N == b] - x[block_N == b].mean(0)).square().sum(1)
              for b in range(n_blocks)]
    assert found["explained_variance_legacy"] == pytest.approx(float(torch.cat(shares).mean()), rel=1e-4)
    columns = result.detail["latents"]
    assert columns["feature_density"] == pytest.approx(density_L.tolist(), rel=1e-4)
    heuristic = columns["consistent_activation_heuristic"]
    assert heuristic[3] is None
    latent = int(density_L.argmax())
    in_contexts = len(torch.unique(context_N[acts[:, latent] > 0]))
    assert heuristic[latent] == pytest.approx(int((acts[:, latent] > 0).sum()) / in_contexts, rel=1e-4)


def test_losses_are_the_ones_of_whole_distributions(result: Result, sae: Any, subject_of: Any) -> None:
    """Compare CE and KL with float64 softmax over all predicting positions."""
    subject = subject_of(sae)
    found = {value.key: value.value for value in result.values}
    contexts = np.arange(4)  # the first that have 100 tokens
    x_ND = torch.cat([batch.x_ND for batch in read_tokens(subject, subject.contexts, silent)])
    mean_D = x_ND.mean(0)
    sums: dict[str, list[torch.Tensor]] = {}
    for row in contexts:
        ids = torch.from_numpy(subject.corpus.tokens[[row], : subject.corpus.length[row]].astype(np.int64))

        def changed(make: Any, ids: torch.Tensor = ids) -> torch.Tensor:
            def edit(x_1SD: torch.Tensor) -> torch.Tensor:
                return torch.cat([x_1SD[:, :1], make(x_1SD[0, 1:])[None]], dim=1)
            out: torch.Tensor = subject.model.logits(ids, {sae.hook: edit})[0, 1:-1].double().log_softmax(-1)
            return out

        clean = subject.model.logits(ids)[0, 1:-1].double().log_softmax(-1)
        for name, make in (("clean", lambda x: x), ("sae", sae.reconstruct), ("zero", torch.zeros_like),
                           ("mean", lambda x: mean_D.expand_as(x))):
            log_q = changed(make)
            sums.setdefault(f"ce_{name}", []).append(-log_q.gather(1, ids[0, 2:, None])[:, 0])
            sums.setdefault(f"kl_{name}", []).append((clean.exp() * (clean - log_q)).sum(-1))
    mean = {name: float(torch.cat(parts).mean()) for name, parts in sums.items()}
    for key in ("ce_clean", "ce_sae", "ce_zero", "ce_mean", "kl_sae", "kl_zero", "kl_mean"):
        assert found[key] == pytest.approx(mean[key], rel=1e-4), key
    for name in ("zero", "mean"):
        assert found[f"kl_recovered_{name}"] == pytest.approx(1 - mean["kl_sae"] / mean[f"kl_{name}"], abs=1e-4)
        share = (mean[f"ce_{name}"] - mean["ce_sae"]) / (mean[f"ce_{name}"] - mean["ce_clean"])
        assert found[f"ce_recovered_{name}"] == pytest.approx(share, abs=1e-3)
    metrics = cross_entropy_metrics(subject.model, sae, subject.corpus, contexts, mean_D)
    assert found["delta_ce"] == pytest.approx(metrics["delta_ce"], abs=1e-5)


def test_the_result_is_plain_json_with_a_definition_for_every_value(result: Result) -> None:
    assert {value.key for value in result.values} == set(DEFINITIONS)
    assert set(KINDS["core"][1]) - {"tokens_reconstruction", "tokens_sparsity"} <= set(DEFINITIONS)
    json.dumps(result.detail, allow_nan=False)
    for value in result.values:
        if value.low is not None and value.high is not None and value.value is not None:
            assert value.low <= value.value <= value.high


def test_a_perfect_reconstruction_has_perfect_scores(sae: Any, subject_of: Any) -> None:
    subject = subject_of(sae, [0, 1, 2])
    original = type(sae).decode
    try:
        type(sae).decode = lambda self, codes, x_BD: x_BD.clone()
        found = {value.key: value.value for value in Core(200, 60).run(subject, silent).values}
    finally:
        type(sae).decode = original
    assert found["fvu"] == 0
    assert found["explained_variance"] == 1
    assert found["relative_reconstruction_bias"] == pytest.approx(1)
    assert found["delta_ce"] == pytest.approx(0, abs=1e-5)
    assert found["kl_recovered_mean"] == pytest.approx(1, abs=1e-5)


def test_it_refuses_one_context_and_stops_when_cancelled(sae: Any, subject_of: Any) -> None:
    assert "too few" in (Core().refuse(subject_of(sae, [0])) or "")
    assert Core().refuse(subject_of(sae)) is None

    def cancel(done: int, of: int) -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        Core().run(subject_of(sae), cancel)
