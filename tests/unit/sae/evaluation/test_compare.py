"""Comparison of two SAEs latent by latent, against dense computation."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch

from sae.evaluation import compare as compare_module
from sae.evaluation.compare import compare, joint_firings, nearest_between
from sae.index.cofiring import MIN_TOGETHER
from tests.toys import ToyModel, toy_corpus, toy_sae


@pytest.mark.parametrize("merge_at", [1, 1 << 24])
def test_firings_and_directions_by_hand(merge_at: int) -> None:
    lm, corpus = ToyModel(), toy_corpus(60)
    a, b = toy_sae("batch_topk", seed=0), toy_sae("topk", n_latents=31, seed=4)
    contexts = np.arange(len(corpus.length))
    reported: list[int] = []
    with patch.object(compare_module, "_MERGE_AT", merge_at):
        joint = joint_firings(lm, (a, b), corpus, contexts, reported.append)  # type: ignore[arg-type]
        found = compare(a, b, joint)

    tokens_PS = torch.from_numpy(corpus.tokens.astype(np.int64))
    real_PS = torch.arange(corpus.context_length) < torch.from_numpy(corpus.length)[:, None]
    real_PS[:, 0] = False
    x_ND = lm.activations(tokens_PS, a.hook)[real_PS]
    active = []
    for sae in (a, b):
        dense = torch.zeros(len(x_ND), sae.n_latents, dtype=torch.float64)
        codes = sae.codes(x_ND)
        dense[codes.token_N, codes.latent_N] = 1
        active.append(dense)
    assert reported[-1] == joint.tokens == len(x_ND)
    for (mine, other), (M, N), match in zip(((a, b), (b, a)), (active, active[::-1]), found, strict=True):
        cosine = mine.W_dec_LD @ other.W_dec_LD.T
        best = cosine.sort(dim=1, descending=True)
        torch.testing.assert_close(match.cosine_LK, best.values[:, :3])
        assert torch.equal(match.other_LK[:, 0], best.indices[:, 0])
        assert torch.equal(match.fires_L, M.sum(dim=0).long())
        alive = M.sum(dim=0) > 0
        assert match.mmcs == pytest.approx(float(best.values[alive, 0].mean()), rel=1e-5)
        both = M.T @ N
        for latent in range(mine.n_latents):
            candidates = [o for o in range(other.n_latents) if both[latent, o] >= MIN_TOGETHER]
            phi = {o: float(np.nan_to_num(np.corrcoef(M[:, latent], N[:, o])[0, 1])) if M[:, latent].std() > 0
                   and N[:, o].std() > 0 else 0.0 for o in candidates}
            if phi:
                assert float(match.phi_L[latent]) == pytest.approx(max(phi.values()), abs=1e-9)
                assert phi[int(match.best_match_L[latent])] == pytest.approx(max(phi.values()), abs=1e-9)
            else:
                assert match.best_match_L[latent] == -1


def test_a_dictionary_against_itself_shuffled() -> None:
    generator = torch.Generator().manual_seed(0)
    W_LD = torch.randn(50, 8, generator=generator)
    order = torch.randperm(50, generator=generator)
    with patch.object(compare_module, "_RUN_ENTRIES", 7):
        numbers, cosines = nearest_between(W_LD, 3 * W_LD[order])
    assert torch.equal(order[numbers[:, 0]], torch.arange(50))
    torch.testing.assert_close(cosines[:, 0], torch.ones(50))
