"""Every aggregate of a build, read back with DuckDB, against a dense computation by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sae.store.records import DENSE_DENSITY, POSITION_SHARE, RARE_TOKENS, SINGLE_TOKEN_SHARE
from sae.store.schema import BANDS, HIST_BINS, LOGIT_BINS, NEAR_BAND, TABLES
from tests.unit.sae.index.dense import SETTINGS, Case

# ---- the table of latents


def test_counts_moments_and_histograms(case: Case) -> None:
    low, edges = case.meta["hist_low"], np.array(case.meta["hist_edges"], dtype=np.float32)
    assert len(edges) == HIST_BINS - 1
    assert (np.diff(edges) > 0).all()
    bins = min(case.corpus.context_length, 256)
    latents = case.rows("FROM latent ORDER BY latent")
    assert [row["latent"] for row in latents] == list(range(case.sae.n_latents))
    assert case.small or any(row["dead"] for row in latents)
    for row in latents:
        t = case.firing(row["latent"])
        values = case.acts_TL[t, row["latent"]].astype(np.float64)
        assert row["n_tokens"] == len(t)
        assert row["n_contexts"] == len(set(case.ctx_T[t]))
        assert row["density"] == len(t) / case.n_counted
        assert row["dead"] == (len(t) == 0)
        assert row["dense"] == (len(t) > DENSE_DENSITY * case.n_counted)
        assert row["rare"] == (0 < len(t) < RARE_TOKENS)
        assert sum(row["hist"]) == len(t)
        if len(t) == 0:
            assert row["max_act"] == 0
            assert [row[name] for name in ("mean_act", "std_act", "mean_position", "mean_l0")] == [None] * 4
            assert row["top_tokens"] == row["next_tokens"] == []
            assert not row["single_token"]
            assert not row["position_bound"]
            continue
        assert row["max_act"] == values.max()
        assert row["mean_act"] == pytest.approx(values.mean(), rel=1e-6)
        assert row["std_act"] == pytest.approx(values.std(), rel=1e-4, abs=1e-4 * values.max())
        assert row["hist"] == np.bincount(np.searchsorted(edges, values.astype(np.float32)), minlength=64).tolist()
        assert values.min() > low or row["hist"][0] > 0
        slack = 1e-5 if bins == case.corpus.context_length else 1.0  # positions share bins in long contexts
        assert row["mean_position"] == pytest.approx(case.pos_T[t].mean(), abs=slack, rel=1e-6)
        assert row["mean_l0"] == pytest.approx(case.l0_T[t].mean(), rel=1e-6)
        by_token = np.bincount(case.tok_T[t])
        by_place = np.bincount(case.pos_T[t] * bins // case.corpus.context_length)
        assert row["single_token"] == (len(t) >= RARE_TOKENS and by_token.max() >= SINGLE_TOKEN_SHARE * len(t))
        assert row["position_bound"] == (len(t) >= RARE_TOKENS and by_place.max() >= POSITION_SHARE * len(t))


def test_top_and_next_tokens_with_their_lift(case: Case) -> None:
    share = np.bincount(case.tok_T[case.counted_T], minlength=case.lm.info.d_vocab) / case.n_counted
    index = {(int(c), int(p)): int(t) for c, p, t in zip(case.ctx_T, case.pos_T, case.tok_T, strict=True)}
    after_T = np.array([index.get((int(c), int(p) + 1), -1) for c, p in zip(case.ctx_T, case.pos_T, strict=True)])
    following = after_T[case.counted_T & (after_T >= 0)]
    next_share = np.bincount(following, minlength=len(share)) / max(len(following), 1)
    pairs = {(row["latent"], row["token"]): row for row in case.rows("FROM token_latent")}
    n_pairs = 0
    for row in case.rows("FROM latent"):
        t = case.firing(row["latent"])
        count = np.bincount(case.tok_T[t], minlength=len(share))
        ordered = sorted(np.flatnonzero(count), key=lambda token: (-count[token], token))
        n_pairs += len(ordered)
        assert row["top_tokens"] == ordered[:10]
        assert row["top_token_n"] == count[ordered[:10]].tolist()
        largest = [case.acts_TL[t[case.tok_T[t] == token], row["latent"]].max() for token in ordered]
        lift = [count[token] / len(t) / share[token] for token in ordered]
        assert row["top_token_max"] == largest[:10]
        assert row["top_token_lift"] == pytest.approx(lift[:10], rel=1e-6)
        for token, most, times in zip(ordered, largest, lift, strict=True):
            pair = pairs[row["latent"], token]
            assert (pair["n"], pair["max_act"]) == (count[token], most)
            assert pair["lift"] == pytest.approx(times, rel=1e-6)
        nexts = after_T[t][after_T[t] >= 0]
        count = np.bincount(nexts, minlength=len(share))
        ordered = sorted(np.flatnonzero(count), key=lambda token: (-count[token], token))[:10]
        assert row["next_tokens"] == ordered
        assert row["next_token_n"] == count[ordered].tolist()
        expected = [count[token] / len(nexts) / next_share[token] for token in ordered]
        assert row["next_token_lift"] == pytest.approx(expected, rel=1e-6)
    assert len(pairs) == n_pairs
    stored = [(row["token"], -row["n"], row["latent"]) for row in case.rows("FROM token_latent")]
    assert stored == sorted(stored)


def test_logit_effects_are_the_direct_products(case: Case) -> None:
    logits_LV = (case.sae.W_dec_LD.double() @ case.lm.unembedding().double()).numpy()
    edges = np.array(case.meta["logit_edges"])
    assert len(edges) == LOGIT_BINS + 1
    assert edges[-1] == pytest.approx(6 * logits_LV.std(), rel=1e-4)
    for row in case.rows("FROM latent"):
        logits_V = logits_LV[row["latent"]]
        for name, ordered in (("logit_pos", np.sort(logits_V)[::-1]), ("logit_neg", np.sort(logits_V))):
            assert row[f"{name}_value"] == pytest.approx(ordered[:10].tolist(), abs=1e-5)
            assert logits_V[row[name]].tolist() == pytest.approx(row[f"{name}_value"], abs=1e-5)
            assert len(set(row[name])) == 10
        deviation = logits_V.std()
        z_V = (logits_V - logits_V.mean()) / deviation
        assert row["logit_std"] == pytest.approx(deviation, rel=1e-4)
        assert row["logit_skew"] == pytest.approx((z_V**3).mean(), abs=1e-3)
        assert row["logit_kurtosis"] == pytest.approx((z_V**4).mean() - 3, abs=2e-3)
        assert sum(row["logit_hist"]) == len(logits_V)
        expected = np.bincount(np.searchsorted(edges[1:-1], logits_V), minlength=LOGIT_BINS)
        assert np.abs(np.cumsum(row["logit_hist"]) - np.cumsum(expected)).max() <= 1  # one on an edge


def test_neighbours_are_the_nearest_alive_directions(case: Case) -> None:
    W_LD = case.sae.W_dec_LD.double()
    cosine_LL = (W_LD @ W_LD.T).numpy()
    rows = case.rows("FROM latent")
    dead = {row["latent"] for row in rows if row["dead"]}
    for row in rows:
        others = [i for i in range(case.sae.n_latents) if i != row["latent"] and i not in dead]
        ordered = sorted(others, key=lambda i: -cosine_LL[row["latent"], i])[:8]
        assert row["neighbours"] == ordered
        assert row["neighbour_cos"] == pytest.approx(cosine_LL[row["latent"], ordered].tolist(), abs=1e-5)
        encoder_D = case.sae.W_enc_LD[row["latent"]].double()
        assert row["encoder_norm"] == pytest.approx(float(encoder_D.norm()), rel=1e-5)
        cosine = float(encoder_D @ W_LD[row["latent"]] / encoder_D.norm())
        assert row["encoder_decoder_cos"] == pytest.approx(cosine, abs=1e-5)


# ---- contexts


def window_of(case: Case, ctx: int, position: int) -> tuple[int | None, ...]:
    """Return the tokens that two contexts must share to count as duplicates: 16 before the peak to 8 after it."""
    inside = range(int(case.corpus.length[ctx]))
    return tuple(int(case.corpus.tokens[ctx, p]) if p in inside else None for p in range(position - 16, position + 9))


def check_payload(case: Case, row: dict[str, Any]) -> None:
    ctx, latent, start = row["ctx"], row["latent"], row["start"]
    length = int(case.corpus.length[ctx])
    shown = row["tokens"]
    assert shown == case.corpus.tokens[ctx, start : start + len(shown)].tolist()
    assert len(shown) == min(length, 128)
    assert start + len(shown) <= length
    assert 0 <= row["peak"] < len(shown)
    assert min(row["peak"], 96) >= min(start + row["peak"], 96)  # up to 96 tokens before the peak are shown
    acts = np.zeros(length, dtype=np.float32)
    here = case.ctx_T == ctx
    acts[case.pos_T[here]] = np.where(case.pos_T[here] > 0, case.acts_TL[here, latent], 0)
    window = acts[start : start + len(shown)]
    assert row["pos"] == np.flatnonzero(window).tolist()
    assert row["val"] == window[window > 0].tolist()
    assert row["act"] == window[row["peak"]] == acts.max()
    assert start + row["peak"] == int(acts.argmax())  # the first of equal values
    assert (row["doc"], row["doc_offset"]) == (case.corpus.doc[ctx], case.corpus.offset[ctx])


def test_top_contexts_are_the_strongest_distinct_ones(case: Case) -> None:
    collapsed = 0
    for latent in range(case.sae.n_latents):
        rows = case.rows(f"FROM context WHERE latent = {latent} AND band = 0 ORDER BY rank")
        strongest = case.peaks(latent)[: 4 * SETTINGS.top_contexts]
        windows: dict[tuple[int | None, ...], list[tuple[float, int, int]]] = {}
        for peak in strongest:
            windows.setdefault(window_of(case, peak[1], peak[2]), []).append(peak)
        expected = [(same_text[0], len(same_text)) for same_text in windows.values()][: SETTINGS.top_contexts]
        assert [row["rank"] for row in rows] == list(range(len(expected)))
        found = [((-row["act"], row["ctx"], row["start"] + row["peak"]), row["duplicates"]) for row in rows]
        assert found == expected
        collapsed += sum(n > 1 for _, n in expected)
        for row in rows:
            check_payload(case, row)
    assert case.small or collapsed or case.lm.info.id != "toy" or case.corpus.context_length > 128


def test_bands_are_contexts_of_their_quantiles_that_are_not_on_top(case: Case) -> None:
    edges = np.array(case.meta["hist_edges"], dtype=np.float32)
    shown = 0
    for latent in range(case.sae.n_latents):
        rows = case.rows(f"FROM context WHERE latent = {latent} ORDER BY band, rank")
        assert len({row["ctx"] for row in rows}) == len(rows)  # a context is shown once
        on_top = {row["ctx"] for row in rows if row["band"] == 0}
        texts = [case.text_at(row["ctx"], row["start"] + row["peak"]) for row in rows if row["band"] != NEAR_BAND]
        assert len(set(texts)) == len(texts)  # and so is a text
        values = np.sort(case.acts_TL[case.firing(latent), latent])
        for band, _, low, high in BANDS:
            mine = [row for row in rows if row["band"] == band]

            def in_band(value: float, low: float = low, high: float = high, values: np.ndarray = values) -> bool:
                """Compare the middle quantile of the firings in the value's histogram bin with the band."""
                number = np.searchsorted(edges, np.float32(value))
                bins = np.searchsorted(edges, values)
                middle = ((bins < number).sum() + (bins == number).sum() / 2) / len(values)
                return bool(low <= middle < high)

            there = [peak for peak in case.peaks(latent) if peak[1] not in on_top and in_band(-peak[0])]
            assert {row["ctx"] for row in mine} <= {ctx for _, ctx, _ in there}
            free = {case.text_at(ctx, position) for _, ctx, position in there} - set(texts)
            assert len(mine) <= SETTINGS.band_contexts
            assert len(mine) == SETTINGS.band_contexts or not free or len(there) > len(free) + len(mine)
            assert [row["rank"] for row in mine] == list(range(len(mine)))
            assert [(-row["act"], row["ctx"]) for row in mine] == sorted((-row["act"], row["ctx"]) for row in mine)
            for row in mine:
                assert row["duplicates"] == 1
                check_payload(case, row)
            shown += len(mine)
    assert case.small or shown > 0


def test_near_misses_are_of_contexts_in_which_the_latent_is_silent(case: Case) -> None:
    for latent in range(case.sae.n_latents):
        rows = case.rows(f"FROM context WHERE latent = {latent} AND band = {NEAR_BAND} ORDER BY rank")
        firing = set(case.ctx_T[case.firing(latent)].tolist())
        near: dict[int, tuple[float, int]] = {}  # context -> (−pre-activation, position) of the nearest
        for t in np.flatnonzero(case.near_TL[:, latent] & case.counted_T):
            ctx, peak = int(case.ctx_T[t]), (-float(case.pre_TL[t, latent]), int(case.pos_T[t]))
            if ctx not in firing:
                near[ctx] = min(near.get(ctx, peak), peak)
        texts = {case.text_at(row["ctx"], row["start"] + row["peak"]) for row in rows}
        assert len(texts) == len(rows) <= SETTINGS.near_misses
        assert bool(rows) is bool(near)
        assert [row["rank"] for row in rows] == list(range(len(rows)))
        for row in rows:
            assert (-row["act"], row["start"] + row["peak"]) == near[row["ctx"]]
            assert (row["pos"], row["val"]) == ([], [])
            shown = case.corpus.tokens[row["ctx"], row["start"] : row["start"] + len(row["tokens"])]
            assert row["tokens"] == shown.tolist()


# ---- tokens, documents, latents per token, samples


def test_tokens_and_documents(case: Case) -> None:
    pieces, special = case.lm.vocabulary()
    counts = np.bincount(case.tok_T[case.counted_T], minlength=len(pieces))
    assert case.rows("FROM token ORDER BY token") == [
        {"token": i, "piece": piece, "special": special[i], "n": counts[i]} for i, piece in enumerate(pieces)]
    assert [row["name"] for row in case.rows("FROM document ORDER BY doc")] == case.corpus.documents


def test_latents_per_token(case: Case) -> None:
    top = int(case.l0_T.max())
    found = {row["l0"]: (row["n"], row["n_bos"]) for row in case.rows("FROM l0_hist")}
    expected = {n: (int((case.l0_T[case.counted_T] == n).sum()), int((case.l0_T[~case.counted_T] == n).sum()))
                for n in range(top + 1)}
    assert found == {n: counts for n, counts in expected.items() if any(counts)}
    for row in case.rows("FROM l0_position"):
        l0 = case.l0_T[case.pos_T == row["position"]].astype(int)
        assert (row["n"], row["sum_l0"], row["sum_sq_l0"]) == (len(l0), l0.sum(), (l0**2).sum())
    assert len(case.rows("FROM l0_position")) == len(set(case.pos_T))
    by_token = {row["token"]: (row["n"], row["sum_l0"]) for row in case.rows("FROM l0_token")}
    counted = case.counted_T
    assert by_token == {
        int(token): (int((case.tok_T[counted] == token).sum()),
                     int(case.l0_T[counted & (case.tok_T == token)].sum())) for token in set(case.tok_T[counted])}


def test_samples_show_whole_contexts_with_their_strongest_latents(case: Case) -> None:
    samples = case.rows("FROM sample ORDER BY sample")
    assert [row["ctx"] for row in samples if row["kind"] == "any"] == case.contexts[:48].tolist()
    for row in samples:
        here = np.flatnonzero(case.ctx_T == row["ctx"])
        here = here[np.argsort(case.pos_T[here])]
        assert row["tokens"] == case.tok_T[here].tolist()
        assert row["l0"] == case.l0_T[here].tolist()
        assert (row["doc"], row["doc_offset"]) == (case.corpus.doc[row["ctx"]], case.corpus.offset[row["ctx"]])
        positions = case.rows(f"FROM sample_latent WHERE sample = {row['sample']} ORDER BY position")
        assert [p["position"] for p in positions] == list(range(len(here)))
        for position, t in zip(positions, here, strict=True):
            acts = case.acts_TL[t]
            strongest = sorted(np.flatnonzero(acts), key=lambda latent: -acts[latent])[:12]
            assert position["acts"] == pytest.approx(acts[strongest].tolist(), rel=1e-5)  # read again in other batches
            assert acts[position["latents"]].tolist() == pytest.approx(position["acts"], rel=1e-5)


def test_extremes_are_the_contexts_with_fewest_and_most_latents(case: Case) -> None:
    means = {}
    for ctx in sorted(set(case.ctx_T.tolist())):
        l0 = case.l0_T[(case.ctx_T == ctx) & case.counted_T].astype(int)
        if len(l0) >= case.corpus.context_length // 2:
            means[ctx] = l0.sum() / len(l0)
    fewest = sorted(means, key=lambda ctx: (means[ctx], ctx))[:8]
    most = [ctx for ctx in sorted(means, key=lambda ctx: (-means[ctx], ctx))[:8] if ctx not in fewest]
    for kind, expected in (("fewest", fewest), ("most", most)):
        found = case.rows(f"SELECT ctx FROM sample WHERE kind = '{kind}' ORDER BY sample")
        assert [row["ctx"] for row in found] == expected


def test_meta_says_what_was_read(case: Case) -> None:
    meta = case.meta
    assert meta["tokens"] == case.n_counted
    assert meta["contexts"] == len(case.contexts)
    assert meta["documents"] == len(set(case.corpus.doc[case.contexts]))
    assert meta["settings"] == {
        "index_tokens": 10_000, "top_contexts": 3, "band_contexts": 2, "near_misses": 2, "skip_norm": 0.0,
        "skip_tokens": "", "map": "pca"}
    assert meta["near"] == 0.1
    bos = case.l0_T[~case.counted_T]
    assert meta["bos_l0"] == np.bincount(bos).argmax()
    low, high = (np.quantile(case.norm_T[case.counted_T], 0.5, method=way) for way in ("lower", "higher"))
    assert 0.98 * low <= meta["median_resid_norm"] <= 1.02 * high
    assert meta["theta"] == case.sae.sparsity.threshold
    assert (meta["run"], meta["command"], meta["build_id"]) == ("r", "c", "b")
    assert [(b["band"], b["q_low"], b["q_high"]) for b in meta["bands"]] == [(b, lo, hi) for b, _, lo, hi in BANDS]
    assert {name for (name,) in case.con.execute("SELECT table_name FROM duckdb_tables()").fetchall()} == set(TABLES)
