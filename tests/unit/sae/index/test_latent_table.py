"""Positions, co-firing and directions in the `latent` table, against dense computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae.data.activations import context_batches
from sae.index.cofiring import IMPLIED_LIFT, IMPLIED_SHARE, IMPLIED_TOKENS, MIN_TOGETHER, SAMPLED
from sae.index.token_classes import TokenClasses
from sae.store.records import CLASS_SHARE, RARE_TOKENS
from tests.unit.sae.index.dense import Case


def test_cofiring_by_hand(case: Case) -> None:
    """Compare the figures of latents that fire no more often than their sample holds tokens: they are exact."""
    if case.n_counted > 3000:
        pytest.skip("the figures are estimates here; test_cofiring tests the sampling")
    active_TL = case.acts_TL[case.counted_T] > 0
    n_L = active_TL.sum(axis=0)
    exact = set(np.flatnonzero(n_L <= SAMPLED))
    seen = 0
    for row in case.rows("FROM latent"):
        latent = row["latent"]
        shares = [row[name] for name in ("together_given", "together_lift", "together_phi")]
        assert row["max_phi"] is None or not row["together_phi"] or row["max_phi"] == max(row["together_phi"])
        if latent not in exact:
            continue
        for other, given, lift, phi in zip(row["together"], *shares, strict=True):
            both = (active_TL[:, latent] & active_TL[:, other]).sum()
            assert both >= MIN_TOGETHER
            assert given == pytest.approx(both / n_L[latent], rel=1e-6)
            assert lift == pytest.approx(given / (n_L[other] / case.n_counted), rel=1e-5)
            assert phi == pytest.approx(np.corrcoef(active_TL[:, latent], active_TL[:, other])[0, 1], abs=1e-5)
            seen += 1
        implied = [o for o in range(case.sae.n_latents) if o != latent and n_L[latent] >= IMPLIED_TOKENS
                   and (both := (active_TL[:, latent] & active_TL[:, o]).sum()) >= max(
                       MIN_TOGETHER, IMPLIED_SHARE * n_L[latent])
                   and both / n_L[latent] >= IMPLIED_LIFT * n_L[o] / case.n_counted]
        assert set(row["implies"]) <= set(implied)
        assert len(row["implies"]) == min(len(implied), 8)
    assert case.small or seen > 0


def test_first_and_last_places_and_classes(case: Case) -> None:
    last = {c: max(case.pos_T[case.ctx_T == c]) for c in set(case.ctx_T)}
    numbers = TokenClasses.of(case.lm.vocabulary()[0]).number.numpy()
    for row in case.rows("FROM latent"):
        t = case.firing(row["latent"])
        assert row["n_first"] == int((case.pos_T[t] == 1).sum())
        assert row["n_last"] == sum(case.pos_T[i] == last[case.ctx_T[i]] for i in t)
        on_numbers = int(numbers[case.tok_T[t]].sum())
        assert row["number"] == (len(t) >= RARE_TOKENS and on_numbers >= CLASS_SHARE * len(t))


def test_fvu_by_position(case: Case) -> None:
    x_TD = np.concatenate([case.lm.activations(tokens_PS, case.sae.hook)[real_PS].numpy()
                           for _, tokens_PS, real_PS in context_batches(case.corpus, case.contexts)])
    error_T = (x_TD - case.sae.reconstruct(torch.from_numpy(x_TD)).numpy()).astype(np.float64) ** 2
    spread_T = (x_TD - x_TD[case.counted_T].mean(axis=0)).astype(np.float64) ** 2
    for row in case.rows("FROM l0_position"):
        here = case.pos_T == row["position"]
        if row["position"] == 0 or spread_T[here].sum() <= 1e-6 * (x_TD[here].astype(np.float64) ** 2).sum():
            assert row["fvu"] is None  # no counted tokens there, or all equal the mean
        else:
            assert row["fvu"] == pytest.approx(error_T[here].sum() / spread_T[here].sum(), rel=1e-3)


def test_the_map_is_of_alive_directions(case: Case) -> None:
    rows = case.rows("FROM latent ORDER BY latent")
    alive = [row["latent"] for row in rows if not row["dead"]]
    if len(alive) < 3:
        assert case.meta["map"] == "none"
        assert all(row["map_x"] is None for row in rows)
        return
    assert case.meta["map"] == "PCA"
    assert [row["map_x"] is None for row in rows] == [row["dead"] for row in rows]
    W = case.sae.W_dec_LD[alive].double().numpy()
    W = W - W.mean(axis=0)
    spread = np.linalg.svd(W, compute_uv=False)[:2] ** 2
    got = np.array([[rows[i]["map_x"], rows[i]["map_y"]] for i in alive])
    assert (got**2).sum(axis=0) == pytest.approx(spread, rel=1e-4)
