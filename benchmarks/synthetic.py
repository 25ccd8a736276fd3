"""A workspace with one synthetic SAE and an index of any size, for benchmarks of the pages.

    python -m benchmarks.synthetic FOLDER --latents 65536 [--contexts 40] [--window 128]

DuckDB makes the rows from hashes of their numbers.  There is no language model and no text, but the
tables, sizes and value ranges are like a real build's, written in order, latent after latent.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from sae.lm.model_info import DEMO_PATH
from sae.store.page_file import page_file_path
from sae.store.records import NEAR
from sae.store.schema import (
    BANDS,
    HIST_BINS,
    LOGIT_BINS,
    NEAR_BAND,
    ROW_GROUP,
    SCHEMA_VERSION,
    STORAGE_VERSION,
    TABLES,
)
from sae.store.writer import finish, write_contexts
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace

SAE_ID = "demo/big"
BUILD_ID = "20261121-000000-0000"
VOCABULARY = 8192
TOKENS = 1_000_000
_STEP = 8192  # latents written at once


def make(root: Path, n_latents: int, contexts: int = 40, window: int = 128, every: int = 1) -> Path:
    """Make the build if it does not exist and return its path.

    One latent in `every` has lists and contexts; the others have the columns of single numbers alone.
    """
    workspace = Workspace(root)
    path = workspace.build(SAE_ID, BUILD_ID)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with duckdb.connect(config={"threads": 2}) as con:
        con.execute(f"ATTACH '{temporary}' AS build (STORAGE_VERSION '{STORAGE_VERSION}', ROW_GROUP_SIZE {ROW_GROUP})")
        for name, (columns, _) in TABLES.items():
            con.execute(f"CREATE TABLE build.{name} ({columns})")
        _macros(con, n_latents)
        con.execute(_TOKENS)
        con.execute("INSERT INTO build.document SELECT range, 'package/module_' || range || '.py' FROM range(2000)")
        for start in range(0, n_latents, _STEP):
            stop = min(start + _STEP, n_latents)
            con.execute(_LATENTS.format(start=start, stop=stop, L=n_latents, lists=_lists_of(every)))
            write_contexts(con, _CONTEXTS.format(start=start, stop=stop, n=contexts, top=contexts // 2,
                                                 band=max(1, contexts // 8), S=window, every=every))
        con.execute("INSERT INTO build.token_latent BY NAME SELECT token, latent, n, act AS max_act, lift FROM ("
                    "SELECT unnest(top_tokens) AS token, latent, unnest(top_token_n) AS n, unnest(top_token_max)"
                    " AS act, unnest(top_token_lift) AS lift FROM build.latent) ORDER BY token, n DESC, latent")
        con.execute(_L0)
        con.executemany("INSERT INTO build.meta VALUES (?, ?)",
                        [(key, json.dumps(value)) for key, value in _meta(n_latents, window).items()])
        finish(con, page_file_path(path))
    temporary.rename(path)
    _artefact(workspace, n_latents)
    return path


def _macros(con: duckdb.DuckDBPyConnection, n_latents: int) -> None:
    """Define `u(a, b)`, a hash uniform in [0, 1); `tok`, a token (small ids are frequent); `other`, a latent."""
    con.execute("CREATE MACRO u(a, b) AS (hash(a, b) % 1000003) / 1000003.0")
    con.execute(f"CREATE MACRO tok(a, b) AS CAST(1 + floor({VOCABULARY - 1} * pow(u(a, b), 3)) AS INTEGER)")
    con.execute(f"CREATE MACRO other(a, b) AS CAST(hash(a, b) % {n_latents} AS INTEGER)")


_TOKENS = f"""INSERT INTO build.token
SELECT range, CASE WHEN range = 0 THEN '<bos>'::BLOB
                   ELSE ((CASE WHEN range % 3 = 0 THEN '' ELSE ' ' END) || 'w' || range)::BLOB END,
       range = 0, greatest(1, CAST({TOKENS} / (range + 10) AS BIGINT)) FROM range({VOCABULARY})"""


def _lists_of(every: int) -> str:
    """Return the SQL that leaves lists only to one latent in `every`; rules keep theirs."""
    if every == 1:
        return ""
    names = [column.split()[0] for column in TABLES["latent"][0].split(",")
             if column.endswith("[]") or column.split()[0] == "nearest_cos"]
    kept = ", ".join(f"CASE WHEN latent % {every} = 0 THEN {name} END AS {name}"
                     for name in names if name != "rule_tokens")
    return f"REPLACE ({kept})"


_LATENTS = f"""INSERT INTO build.latent BY NAME SELECT * {{lists}} FROM (
SELECT l AS latent, n AS n_tokens, greatest(1, n // 3) AS n_contexts, n / {TOKENS}.0 AS density,
  2 + 20 * u(l, 2) AS max_act, 1 + 2 * u(l, 3) AS mean_act, 1 + u(l, 4) AS std_act, 3 * u(l, 5) AS skew_act,
  list_transform(range({HIST_BINS}), lambda i: CAST(100 * u(l, i + 100) AS UINTEGER)) AS hist,
  127 * u(l, 6) AS mean_position, n // 100 AS n_first, n // 120 AS n_last,
  n = 0 AS dead, n > {TOKENS // 10} AS dense, n > 0 AND n < 10 AS rare, u(l, 7) < 0.1 AS single_token,
  u(l, 8) < 0.01 AS position_bound, u(l, 9) < 0.05 AS punctuation, u(l, 10) < 0.02 AS number,
  u(l, 11) < 0.04 AS capital,
  list_transform(range(10), lambda i: tok(l, i + 200)) AS top_tokens,
  list_transform(range(10), lambda i: CAST(n // (i + 2) AS BIGINT)) AS top_token_n,
  list_transform(range(10), lambda i: 1 + 100 * u(l, i + 220)) AS top_token_lift,
  list_transform(range(10), lambda i: 1 + u(l, i + 230)) AS top_token_max,
  list_transform(range(10), lambda i: tok(l, i + 240)) AS next_tokens,
  list_transform(range(10), lambda i: CAST(n // (i + 2) AS BIGINT)) AS next_token_n,
  list_transform(range(10), lambda i: 1 + 9 * u(l, i + 260)) AS next_token_lift,
  list_transform(range(10), lambda i: tok(l, i + 300)) AS logit_pos,
  list_transform(range(10), lambda i: 3.0 / (i + 1)) AS logit_pos_value,
  list_transform(range(10), lambda i: tok(l, i + 320)) AS logit_neg,
  list_transform(range(10), lambda i: -2.0 / (i + 1)) AS logit_neg_value,
  list_transform(range({LOGIT_BINS}), lambda i: CAST(400 * u(l, i + 340) AS UINTEGER)) AS logit_hist,
  0.1 + u(l, 12) AS logit_std, u(l, 13) - 0.5 AS logit_skew, 20 * u(l, 14) AS logit_kurtosis,
  list_transform(range(8), lambda i: other(l, i + 400)) AS neighbours,
  list_transform(range(8), lambda i: u(l, 24) - i / 20.0) AS neighbour_cos, u(l, 24) AS nearest_cos,
  list_transform(range(8), lambda i: other(l, i + 410)) AS encoder_neighbours,
  list_transform(range(8), lambda i: 0.7 - i / 20.0) AS encoder_neighbour_cos,
  list_transform(range(8), lambda i: other(l, i + 420)) AS together,
  list_transform(range(8), lambda i: 0.5 - i / 20.0) AS together_given,
  list_transform(range(8), lambda i: 10.0 - i) AS together_lift,
  list_transform(range(8), lambda i: 0.6 - i / 20.0) AS together_phi, 0.6 * u(l, 15) AS max_phi,
  list_transform(range(2), lambda i: other(l, i + 430)) AS implies, [0.95, 0.92] AS implies_given,
  [9.0, 8.0] AS implies_lift, [0.5, 0.4] AS implies_phi,
  list_transform(range(2), lambda i: other(l, i + 440)) AS implied_by, [0.95, 0.92] AS implied_by_given,
  [9.0, 8.0] AS implied_by_lift, [0.5, 0.4] AS implied_by_phi,
  'token' AS rule_kind, [tok(l, 200), tok(l, 201)] AS rule_tokens, u(l, 16) AS rule_precision, u(l, 17) AS rule_recall,
  u(l, 18) AS rule_f1, u(l, 19) AS map_x, u(l, 20) AS map_y,
  1 + u(l, 21) AS encoder_norm, u(l, 22) AS encoder_decoder_cos, 30 + 10 * u(l, 23) AS mean_l0
FROM (SELECT range AS l, CASE WHEN u(range, 0) < 0.02 THEN 0
                              ELSE CAST(3 * pow(10, 4.5 * u(range, 1)) AS BIGINT) END AS n
      FROM range({{start}}, {{stop}}))) ORDER BY latent"""

# The strongest contexts come first, then four bands, then near misses, in which the latent does not fire.
_CONTEXTS = f"""(SELECT l AS latent, band, rank, act, hash(l, k) % 100000 AS ctx,
  CAST(hash(l, k) % 2000 AS INTEGER) AS doc,
  hash(l, k, 1) % 5000 AS doc_offset, 0 AS start, CAST({{S}} * 3 // 4 AS USMALLINT) AS peak,
  list_transform(range({{S}}), lambda i: tok(l::BIGINT * 131 + k, i)) AS tokens,
  CASE WHEN band = {NEAR_BAND} THEN [] ELSE [{{S}} // 16 - 1, {{S}} // 4 - 1, {{S}} * 3 // 4 - 5, {{S}} * 3 // 4]
  END AS pos,
  CASE WHEN band = {NEAR_BAND} THEN [] ELSE [act / 9, act / 4, act / 2, act] END AS val, 1 AS duplicates
FROM (SELECT latent AS l, k, CASE WHEN k < {{top}} THEN 0 ELSE 1 + (k - {{top}}) // {{band}} END AS band,
             CASE WHEN k < {{top}} THEN k ELSE (k - {{top}}) % {{band}} END AS rank,
             max_act * ({{n}} - k) / {{n}} AS act
      FROM build.latent, (SELECT range AS k FROM range({{n}}))
      WHERE latent >= {{start}} AND latent < {{stop}} AND NOT dead AND latent % {{every}} = 0
        AND k < {{top}} + 4 * {{band}}
      UNION ALL
      SELECT latent, {{n}} + k, {NEAR_BAND}, k, 0.95 - 0.01 * k FROM build.latent, (SELECT range AS k FROM range(3))
      WHERE latent >= {{start}} AND latent < {{stop}} AND NOT dead AND latent % {{every}} = 0))"""

_L0 = f"""
INSERT INTO build.l0_hist SELECT range, CAST(1e6 * exp(-pow((range - 32) / 14.0, 2)) AS BIGINT), 0 FROM range(1, 90);
INSERT INTO build.l0_position SELECT range, 1000, 32000, 1100000, 0.1 + 0.001 * range FROM range(128);
INSERT INTO build.l0_token SELECT range, 500, 16000 + range FROM range({VOCABULARY})"""


def _meta(n_latents: int, window: int) -> dict[str, Any]:
    edges = np.geomspace(0.5, 60, HIST_BINS + 1)
    return {
        "schema_version": SCHEMA_VERSION, "duckdb_version": duckdb.__version__, "saescope_version": "synthetic",
        "build_id": BUILD_ID, "sae_id": SAE_ID, "model": {"name": "demo", "id": "demo"}, "site": _site(),
        "architecture": "batch_topk", "n_latents": n_latents, "d_model": 256, "k": 32, "theta": 0.5,
        "normalize": "layer_norm", "train_on_bos": True, "bos_rule": "synthetic", "weight_processing": "raw",
        "decoder_norm": "unit", "text": "synthetic", "text_fingerprint": "0", "corpus": "none", "tokens": TOKENS,
        "contexts": 100_000, "documents": 2000, "context_length": window, "created": time.time(), "seconds": 1.0,
        "settings": {}, "median_resid_norm": 20.0, "hist_low": float(edges[0]), "hist_edges": edges[1:-1].tolist(),
        "logit_edges": np.linspace(-3, 3, LOGIT_BINS + 1).tolist(), "company_tokens": 64, "map": "PCA",
        "bands": [{"band": b, "name": name, "q_low": low, "q_high": high} for b, name, low, high in BANDS],
        "near": NEAR,
        "bos_l0": 40, "bos_token": 0, "command": "python -m benchmarks.synthetic"}


def _site() -> dict[str, Any]:
    return {"layer": 2, "hook": "blocks.2.hook_resid_post"}


def _artefact(workspace: Workspace, n_latents: int) -> None:
    """Write the SAE's configuration, which is all that the pages read; there are no weights."""
    folder = workspace.sae(SAE_ID)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "sae.json", {
        "schema_version": 1, "id": SAE_ID, "model": {"name": str(DEMO_PATH), "id": "demo"}, "site": _site(),
        "architecture": "batch_topk", "n_latents": n_latents, "d_model": 256, "k": 32, "normalize": "layer_norm",
        "weight_processing": "raw", "bos": {"prepended": True, "trained_on": True}, "context_length": 128,
        "threshold": {"calibrated": 0.5}, "metrics": {}, "training": {}, "run": "none", "created": time.time(),
        "saescope_version": "synthetic"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latents", type=int, default=65_536)
    parser.add_argument("--contexts", type=int, default=40)
    parser.add_argument("--window", type=int, default=128)
    options = parser.parse_args()
    started = time.monotonic()
    path = make(options.folder, options.latents, options.contexts, options.window)
    print(f"{path}: {path.stat().st_size / 1e6:,.0f} MB, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
