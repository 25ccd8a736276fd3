"""Forward passes of a toy model against its contexts one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.index import forward
from sae.index.forward import Encoder, joined
from sae.index.token_classes import TokenClasses
from tests.toys import ToyModel, toy_corpus, toy_sae

CORPUS = toy_corpus(20)
NEAR = 0.1


def encoder(sae: Any = None, near: float = 0.0) -> Encoder:
    return Encoder(ToyModel(), sae or toy_sae(), CORPUS, near)  # type: ignore[arg-type]


@pytest.mark.parametrize("bos", [True, False])
def test_firings_are_the_codes_of_each_context_with_facts_about_their_tokens(bos: bool) -> None:
    sae, lm, contexts = toy_sae(), ToyModel(), np.array([3, 1, 0, 7])  # context 1 has one token
    found = encoder()(contexts, bos=bos)
    classes = TokenClasses.of(lm.vocabulary()[0])
    firings, tokens = [], []
    for context in contexts:
        row = torch.from_numpy(CORPUS.tokens[context, : CORPUS.length[context]].astype(np.int64))
        x_SD = lm.activations(row[None], sae.hook)[0]
        acts_SL = sae.activation_of(x_SD, torch.arange(sae.n_latents))
        has_CS = classes.at(row[None])[:, 0]
        error_S = (x_SD - acts_SL @ sae.W_dec_LD - sae.b_dec_D).square().sum(dim=1)
        for p, token in enumerate(row.tolist()):
            facts = (int(context), p, token)
            after = int(row[p + 1]) if p + 1 < len(row) else -1
            bits, l0 = sum(int(has) << c for c, has in enumerate(has_CS[:, p])), int((acts_SL[p] > 0).sum())
            tokens.append((*facts, after, bits, l0, pytest.approx(float(error_S[p]), rel=1e-4, abs=1e-4)))
            firings += [(latent, float(acts_SL[p, latent]), *facts, after, l0, bits)
                        for latent in acts_SL[p].nonzero()[:, 0].tolist() if p or bos]
    got = found.firings
    assert list(zip(*(column.tolist() for column in (
        got.latent_N, got.value_N, got.context_N, got.position_N, got.token_N, got.next_N, got.l0_N, got.classes_N)),
        strict=True)) == firings
    all_tokens = found.tokens
    assert list(zip(*(column.tolist() for column in (
        all_tokens.context_B, all_tokens.position_B, all_tokens.token_B, all_tokens.next_B, all_tokens.classes_B,
        all_tokens.l0_B, all_tokens.error_B)), strict=True)) == tokens
    inside = all_tokens.position_B > 0
    assert torch.equal(all_tokens.previous_B[inside], all_tokens.token_B[inside.nonzero()[:, 0] - 1])
    assert all_tokens.n_contexts == len(contexts)
    assert len(found.misses.latent_N) == 0
    assert (got.counted().position_N > 0).all()


def test_near_misses_are_of_contexts_in_which_the_latent_is_silent() -> None:
    sae, lm, expected = toy_sae(), ToyModel(), []
    threshold = sae.sparsity.threshold
    assert threshold is not None
    for context in range(20):
        row = torch.from_numpy(CORPUS.tokens[context, : CORPUS.length[context]].astype(np.int64))
        pre_SL = sae.pre_activations(lm.activations(row[None], sae.hook)[0])
        silent_L = ~(pre_SL[1:] > threshold).any(dim=0)
        floor_L = threshold - NEAR * (threshold - sae.b_enc_L).clamp(min=0)
        near_SL = (pre_SL > floor_L) & (pre_SL <= threshold) & silent_L
        near_SL[0] = False
        expected += [(context, p, latent, float(pre_SL[p, latent])) for p, latent in near_SL.nonzero().tolist()]
    got = encoder(near=NEAR)(np.arange(20), bos=True).misses
    assert expected
    assert sorted(zip(*(column.tolist() for column in (
        got.context_N, got.position_N, got.latent_N, got.value_N)), strict=True)) == sorted(expected)


def test_passes_join_to_one_pass() -> None:
    read = encoder()
    whole = read(np.arange(9), bos=True)
    parts = [read(part, bos=True) for part in (np.arange(4), np.arange(4, 9))]
    for name in ("firings", "tokens"):
        both = joined([getattr(part, name) for part in parts])
        for column, expected in vars(getattr(whole, name)).items():
            assert torch.equal(getattr(both, column), expected), column


@given(st.integers(0, 40), st.integers(1, 4))
def test_contexts_are_split_evenly_among_encoders(n: int, among: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "_CPU_TOKENS", 5 * CORPUS.context_length)
        parts = encoder().passes(np.arange(n), among)
    assert [context for part in parts for context in part] == list(range(n))
    sizes = [len(part) for part in parts]
    assert not sizes or (0 < max(sizes) <= 5 and max(sizes) - min(sizes) <= 1)
    assert len(parts) == n or len(parts) % among == 0
