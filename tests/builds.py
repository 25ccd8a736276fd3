"""A synthetic but plausible build, for the store's and the pages' tests.

The text is Python source and a hostile document (HTML, emoji, bidi controls), tokenised by the
embedded model's own tokenizer.  The latents are made up: detectors of one or two tokens, and dense,
dead, rare and position-bound ones.  Every aggregate is computed densely from the activations,
so that a test can compare the store's answers with `Synthetic.acts`.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from sae.lm.model_info import DEMO_PATH
from sae.lm.tokens import piece_bytes
from sae.store.page_file import page_file_path
from sae.store.records import DENSE_DENSITY, FLAGS, POSITION_SHARE, RARE_TOKENS, SINGLE_TOKEN_SHARE
from sae.store.schema import BANDS, HIST_BINS, LOGIT_BINS, ROW_GROUP, SCHEMA_VERSION, STORAGE_VERSION, TABLES
from sae.store.writer import finish, write_contexts

S = 128  # tokens per context
HOSTILE = '''<script>alert("x")</script> <b onmouseover="steal()">& "quoted" 'text'</b>
café naïve — “quotes” 日本語のテキスト 🙂🦊 ‮reversed‬ a\tb\r\n   \x07 end
'''


@dataclass
class Synthetic:
    """The build's path and its data: tokens [C, S], activations [C * S, L]."""

    path: Path
    tokens: np.ndarray
    acts: np.ndarray


def make_build(
    path: Path, *, sae_id: str = "demo/2-res-batchtopk-4k", n_latents: int = 300, architecture: str = "batch_topk",
    k: int = 12, n_contexts: int = 96, seed: int = 0,
) -> Synthetic:
    """Write the build file `path` (its stem is the build id) and return its data."""
    rng = np.random.default_rng(seed)
    tokenizer = Tokenizer.from_file(str(DEMO_PATH / "tokenizer.json"))
    tokens, documents, doc, offset = _contexts(tokenizer, n_contexts)
    acts = _activations(rng, tokens, n_latents)
    if architecture == "topk":  # exactly k on every token
        noise = acts + 1e-3 * rng.random(acts.shape, dtype=np.float32)
        floor = np.partition(noise, -k, axis=1)[:, [-k]]
        acts = np.where(noise >= floor, noise, 0).astype(np.float32)
    tables = _tables(rng, tokenizer, tokens, documents, doc, offset, acts)
    tables["meta"] = _meta(path.stem, sae_id, architecture, n_latents, k, tokens, documents, tables)
    _write(path, tables)
    return Synthetic(path, tokens, acts)


def _contexts(tokenizer: Tokenizer, n: int) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    sources = [("notes/hostile.txt", HOSTILE * 8)]
    folder = Path(textwrap.__file__).parent
    sources += [(name, (folder / name).read_text(encoding="utf-8"))
                for name in ("textwrap.py", "heapq.py", "bisect.py", "json/decoder.py", "random.py", "statistics.py")]
    rows, doc, offset = [], [], []
    for number, (_, text) in enumerate(sources):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        for start in range(0, len(ids) - S + 1, S - 1):
            rows.append([_bos(tokenizer), *ids[start : start + S - 1]])
            doc.append(number)
            offset.append(start)
    pick = np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)
    return np.array(rows)[pick], [name for name, _ in sources], np.array(doc)[pick], np.array(offset)[pick]


def _bos(tokenizer: Tokenizer) -> int:
    config = json.loads((DEMO_PATH / "config.json").read_text())
    return int(config["bos_token_id"])


def _activations(rng: np.random.Generator, tokens: np.ndarray, n_latents: int) -> np.ndarray:
    flat = tokens.reshape(-1)
    common = np.argsort(-np.bincount(flat))
    acts = np.zeros((flat.size, n_latents), np.float32)
    position = np.tile(np.arange(S), len(tokens))
    for latent in range(n_latents):
        kind, scale = latent % 20, rng.lognormal(1.2, 0.5)
        if kind == 7:  # dead
            continue
        if latent in (3, 104):  # dense
            chance = 0.4 * np.ones(flat.size)
        elif kind == 13:  # bound to a position
            chance = 0.7 * (position == 1 + latent % 100)
        elif kind == 17:  # rare
            chance = 4 / flat.size * np.ones(flat.size)
        else:
            wanted = rng.choice(common[: 8 + latent], 1 if kind < 5 else 3)
            chance = np.where(np.isin(flat, wanted), rng.uniform(0.4, 1), 0.0 if kind < 4 else 0.008)
        fires = rng.random(flat.size) < chance
        acts[fires, latent] = scale * rng.lognormal(0, 0.6, fires.sum())
    acts[position == 0] = 0
    acts[np.ix_(position == 0, np.arange(0, min(8 * 11, n_latents), 11))] = 9.0  # BOS: the same eight everywhere
    return acts


def _tables(
    rng: np.random.Generator, tokenizer: Tokenizer, tokens: np.ndarray, documents: list[str], doc: np.ndarray,
    offset: np.ndarray, acts: np.ndarray,
) -> dict[str, list[dict[str, Any]]]:
    flat, position = tokens.reshape(-1), np.tile(np.arange(S), len(tokens))
    counted = position > 0
    count_of = np.bincount(flat[counted], minlength=tokenizer.get_vocab_size())
    tables: dict[str, list[dict[str, Any]]] = {
        "token": [
            {"token": i, "piece": piece_bytes(tokenizer.id_to_token(i), True), "special": i == flat[0],
             "n": int(count_of[i])} for i in range(tokenizer.get_vocab_size())],
        "document": [{"doc": i, "name": name} for i, name in enumerate(documents)],
        "latent": [], "context": [], "token_latent": [],
    }
    l0 = (acts > 0).sum(axis=1)
    decoder = rng.standard_normal((acts.shape[1], 32))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    alive = np.nonzero((acts[counted] > 0).any(axis=0))[0]
    for latent in range(acts.shape[1]):
        row = np.where(counted, acts[:, latent], 0)
        _add_latent(tables, rng, latent, row, flat, position, count_of, l0, decoder, alive)
        _add_contexts(tables, rng, latent, row.reshape(tokens.shape), tokens, doc, offset)
    tables["token_latent"].sort(key=lambda r: (r["token"], -r["n"], r["latent"]))
    _add_l0(tables, l0, flat, position, counted)
    for number, ctx in enumerate(range(0, len(tokens), max(1, len(tokens) // 6))):
        values = acts.reshape(*tokens.shape, -1)[ctx]
        tables["sample"].append({
            "sample": number, "kind": "any", "ctx": ctx, "doc": int(doc[ctx]), "doc_offset": int(offset[ctx]),
            "tokens": tokens[ctx].tolist(), "l0": (values > 0).sum(axis=1).tolist()})
        for at, value in enumerate(values):
            strongest = np.argsort(-value, kind="stable")[: min(32, int((value > 0).sum()))]
            tables["sample_latent"].append({
                "sample": number, "position": at, "latents": strongest.tolist(), "acts": value[strongest].tolist()})
    return tables


def hist_edges() -> tuple[float, np.ndarray]:
    """Return the lower end and the upper edges of the activation histogram."""
    edges = np.geomspace(0.1, 100, HIST_BINS + 1)
    return float(edges[0]), edges[1:]


def _add_latent(
    tables: dict[str, list[dict[str, Any]]], rng: np.random.Generator, latent: int, row: np.ndarray, flat: np.ndarray,
    position: np.ndarray, count_of: np.ndarray, l0: np.ndarray, decoder: np.ndarray, alive: np.ndarray,
) -> None:
    fires = row > 0
    n, total = int(fires.sum()), int((position > 0).sum())
    by_token = np.bincount(flat[fires], minlength=len(count_of))
    firing = np.nonzero(by_token)[0]
    top = firing[np.lexsort((firing, -by_token[firing]))]
    largest = {int(t): float(row[fires & (flat == t)].max()) for t in firing}
    lift = {int(t): float(by_token[t] / n / (count_of[t] / total)) for t in firing}
    for t in top:
        tables["token_latent"].append({
            "token": int(t), "latent": latent, "n": int(by_token[t]), "max_act": largest[int(t)],
            "lift": lift[int(t)]})
    after = np.nonzero(fires[:-1] & (position[1:] > 0))[0] + 1
    by_next = np.bincount(flat[after], minlength=len(count_of))
    following = np.argsort(-by_next, kind="stable")[: min(10, int((by_next > 0).sum()))]
    logits = rng.standard_normal(len(count_of)) * 0.3
    if n:
        logits[top[:3]] += 2
    order = np.argsort(-logits)
    cos = decoder @ decoder[latent]
    cos[latent] = -2
    near = alive[np.argsort(-cos[alive])][:8]
    at = np.bincount(position[fires], minlength=S)
    enough = n >= RARE_TOKENS
    tables["latent"].append({
        "latent": latent, "n_tokens": n, "n_contexts": int(fires.reshape(-1, S).any(axis=1).sum()),
        "density": n / total, "max_act": float(row.max()), "mean_act": float(row[fires].mean()) if n else 0.0,
        "std_act": float(row[fires].std()) if n else 0.0,
        "hist": np.bincount(np.minimum(np.searchsorted(hist_edges()[1], row[fires]), HIST_BINS - 1),
                            minlength=HIST_BINS).tolist(),
        "mean_position": float(position[fires].mean()) if n else 0.0,
        "dead": n == 0, "dense": n > DENSE_DENSITY * total, "rare": 0 < n < RARE_TOKENS,
        "single_token": bool(enough and by_token.max() >= SINGLE_TOKEN_SHARE * n),
        "position_bound": bool(enough and at.max() >= POSITION_SHARE * n),
        "top_tokens": top[:12].tolist(), "top_token_n": by_token[top[:12]].tolist(),
        "top_token_lift": [lift[int(t)] for t in top[:12]], "top_token_max": [largest[int(t)] for t in top[:12]],
        "next_tokens": following.tolist(), "next_token_n": by_next[following].tolist(),
        "next_token_lift": [float(by_next[t] / max(len(after), 1) / (count_of[t] / total)) for t in following],
        "logit_pos": order[:10].tolist(), "logit_pos_value": logits[order[:10]].tolist(),
        "logit_neg": order[::-1][:10].tolist(), "logit_neg_value": logits[order[::-1][:10]].tolist(),
        "logit_hist": np.histogram(np.clip(logits, -3, 3), LOGIT_BINS, (-3, 3))[0].tolist(),
        "logit_std": float(logits.std()), "logit_skew": 0.1,
        "logit_kurtosis": float(((logits - logits.mean()) ** 4).mean() / logits.var() ** 2 - 3),
        "neighbours": near.tolist(), "neighbour_cos": cos[near].tolist(),
        "nearest_cos": float(cos[near[0]]), "encoder_norm": float(rng.uniform(0.5, 2)),
        "encoder_decoder_cos": float(rng.uniform(0.4, 0.9)), "mean_l0": float(l0[fires].mean()) if n else 0.0})


def _add_contexts(
    tables: dict[str, list[dict[str, Any]]], rng: np.random.Generator, latent: int, row: np.ndarray,
    tokens: np.ndarray, doc: np.ndarray, offset: np.ndarray,
) -> None:
    peak = row.max(axis=1)
    order = np.argsort(-peak, kind="stable")[: int((peak > 0).sum())]
    chosen = [(0, rank, int(ctx)) for rank, ctx in enumerate(order[:20])]
    rest = order[20:]
    for band, *_ in BANDS:
        part = rest[len(rest) * (band - 1) // 4 : len(rest) * band // 4]
        part = np.sort(rng.permutation(part)[:5])
        chosen += [(band, rank, int(ctx)) for rank, ctx in enumerate(part)]
    for band, rank, ctx in chosen:
        firing = np.nonzero(row[ctx])[0]
        tables["context"].append({
            "latent": latent, "band": band, "rank": rank, "act": float(peak[ctx]), "ctx": ctx, "doc": int(doc[ctx]),
            "doc_offset": int(offset[ctx]), "start": 0, "peak": int(row[ctx].argmax()),
            "tokens": tokens[ctx].tolist(), "pos": firing.tolist(), "val": row[ctx][firing].tolist(),
            "duplicates": 1 + rank % 2})


def _add_l0(
    tables: dict[str, list[dict[str, Any]]], l0: np.ndarray, flat: np.ndarray, position: np.ndarray,
    counted: np.ndarray,
) -> None:
    top = int(l0.max()) + 1
    n, n_bos = np.bincount(l0[counted], minlength=top), np.bincount(l0[~counted], minlength=top)
    tables["l0_hist"] = [
        {"l0": i, "n": int(n[i]), "n_bos": int(n_bos[i])} for i in range(top) if n[i] or n_bos[i]]
    tables["l0_position"] = [
        {"position": p, "n": int((position == p).sum()), "sum_l0": int(l0[position == p].sum()),
         "sum_sq_l0": int((l0[position == p].astype(np.int64) ** 2).sum())} for p in range(S)]
    tables["l0_token"] = [
        {"token": int(t), "n": int((counted & (flat == t)).sum()), "sum_l0": int(l0[counted & (flat == t)].sum())}
        for t in np.unique(flat[counted])]
    tables["sample"], tables["sample_latent"] = [], []


def _meta(
    build_id: str, sae_id: str, architecture: str, n_latents: int, k: int, tokens: np.ndarray, documents: list[str],
    tables: dict[str, list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    low, edges = hist_edges()
    bos = max(tables["l0_hist"], key=lambda r: r["n_bos"])
    meta = {
        "schema_version": SCHEMA_VERSION, "duckdb_version": duckdb.__version__, "saescope_version": "0.1.0",
        "build_id": build_id, "sae_id": sae_id, "model": {"name": "demo", "id": "demo"},
        "site": {"layer": 2, "hook": "blocks.2.hook_resid_post"},
        "architecture": architecture, "n_latents": n_latents, "d_model": 256, "k": k,
        "theta": 0.62 if architecture == "batch_topk" else None, "normalize": "layer_norm", "train_on_bos": True,
        "bos_rule": "BOS first in every context; not counted", "weight_processing": "raw", "decoder_norm": "unit",
        "text": "stdlib", "text_fingerprint": "0123456789abcdef", "tokens": len(tokens) * (S - 1),
        "contexts": len(tokens), "documents": len(documents), "context_length": S, "created": 1_763_700_000.0,
        "seconds": 3.2, "settings": {"index_tokens": tokens.size, "top_contexts": 20, "band_contexts": 5},
        "median_resid_norm": 21.5, "hist_low": low, "hist_edges": edges.tolist(),
        "logit_edges": np.linspace(-3, 3, LOGIT_BINS + 1).tolist(),
        "bands": [{"band": b, "name": n, "q_low": low, "q_high": high} for b, n, low, high in BANDS],
        "bos_l0": bos["l0"], "bos_token": int(tokens[0, 0]), "command": f"saescope index {sae_id}", "map": "PCA",
    }
    return [{"key": key, "value": json.dumps(value)} for key, value in sorted(meta.items())]


def _write(path: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(":memory:") as con:
        con.execute(f"ATTACH '{path}' AS build (STORAGE_VERSION '{STORAGE_VERSION}', ROW_GROUP_SIZE {ROW_GROUP})")
        for name, (columns, order) in TABLES.items():
            con.execute(f"CREATE TABLE build.{name} ({columns})")
            if not tables.get(name):
                continue
            con.register("rows", pa.Table.from_pylist(tables[name]))
            names = ", ".join(tables[name][0])
            con.execute(f"INSERT INTO build.{name} ({names}) SELECT {names} FROM rows ORDER BY {order}")
            con.unregister("rows")
        con.register("rows", pa.Table.from_pylist(tables["context"]))
        write_contexts(con, "rows")
        finish(con, page_file_path(path))


assert set(FLAGS) <= {part.split()[0] for part in TABLES["latent"][0].replace("\n", "").split(",") if part.strip()}, (
    "the synthetic build knows every flag")
