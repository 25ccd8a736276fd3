"""Export of any tokens, values and groups as a Neuronpedia tree, and import again, without loss."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sae.formats.dashboards.import_dashboard import import_dashboard
from sae.formats.writers import neuronpedia
from sae.formats.writers.archive import write_folder
from sae.formats.writers.dashboard_rows import Exporter
from sae.store.build import Build
from sae.store.schema import BANDS, SCHEMA_VERSION
from sae.store.writer import write_build
from sae.workspace.paths import Workspace

ODD = [b"\x00", b"\xe2", b"\x80\x94", "🦊".encode()[:2], "🦊".encode()[2:], "\u202e".encode(), b"</script>",
       b'"', b"\\", rb"\xe2\x80", "\u2028".encode(), b"\r\n", "\ufeff".encode(), b"\xff\xfe", "é".encode(), b" the"]
CONFIG: dict[str, Any] = {
    "id": "toy/1-odd", "model": {"name": "toy", "id": "toy"}, "site": {"layer": 1, "hook": "blocks.1.hook_resid_post"},
    "architecture": "topk", "n_latents": 3, "d_model": 8, "k": 2, "normalize": "none"}
values = st.floats(np.float32(1e-30), np.float32(1e30), width=32)


@st.composite
def contexts(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw rows of the `context` table: some groups of some latents, each strongest first."""
    rows: list[dict[str, Any]] = []
    for latent in range(3):
        for band in draw(st.sets(st.integers(0, 4))):
            made = []
            for _ in range(draw(st.integers(1, 3))):
                n = draw(st.integers(1, 6))
                pos = sorted(draw(st.sets(st.integers(0, n - 1), min_size=1)))
                val = [float(np.float32(draw(values))) for _ in pos]
                made.append({
                    "latent": latent, "band": band, "act": max(val), "ctx": draw(st.integers(0, 2**40)),
                    "doc": draw(st.integers(0, 1)), "doc_offset": draw(st.integers(0, 2**40)),
                    "start": draw(st.integers(0, 60_000)), "peak": pos[int(np.argmax(val))], "pos": pos, "val": val,
                    "tokens": draw(st.lists(st.integers(0, len(ODD) - 1), min_size=n, max_size=n)),
                    "duplicates": draw(st.integers(1, 9))})
            made.sort(key=lambda row: -row["act"])
            rows += [row | {"rank": rank} for rank, row in enumerate(made)]
    return rows


def write(path: Path, rows: list[dict[str, Any]], odd: list[bytes]) -> Build:
    n = len(odd)
    latents = pa.Table.from_pylist([
        {"latent": i, "n_tokens": 5, "density": 0.001, "max_act": max((r["act"] for r in rows if r["latent"] == i),
         default=0.0), "dead": not any(r["latent"] == i for r in rows), "hist": [0, 2, 3, 0], "logit_hist": [1, n - 1],
         "logit_pos": list(range(n)), "logit_pos_value": [0.5] * n} for i in range(3)])
    write_build(path, {
        "latent": latents,
        "context": pa.Table.from_pylist(rows) if rows else None,  # type: ignore[dict-item]
        "token": pa.table({
            "token": range(n), "piece": pa.array(odd, pa.binary()), "special": [False] * n, "n": [1] * n}),
        "document": pa.table({"doc": [0, 1], "name": ["a/“b”.py", "</script>"]})}, {
        "schema_version": SCHEMA_VERSION, "build_id": path.stem, "sae_id": "toy/1-odd", "n_latents": 3, "text": "odd",
        "created": 1.0, "tokens": 5000, "contexts": 50, "context_length": 100, "hist_low": 0.1,
        "hist_edges": [0.2, 0.4, 0.8], "logit_edges": [-1.0, 0.0, 1.0],
        "bands": [{"band": b, "name": name, "q_low": low, "q_high": high} for b, name, low, high in BANDS]})
    return Build.open(path)


def shown(build: Build, latent: int) -> list[dict[str, Any]]:
    info = build.vocabulary
    return [{**vars(c), "tokens": [info[t].piece for t in c.tokens]} for c in build.contexts(latent)]


def listed(build: Build, latent: int) -> list[tuple[bytes, float]]:
    found = build.latent(latent)
    assert found is not None
    info = build.vocabulary
    return [(info[t].piece, value) for t, value in found.logit_pos]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(contexts(), st.lists(st.binary(min_size=1, max_size=5), max_size=4))
@example([], [])
def test_nothing_is_lost(rows: list[dict[str, Any]], more: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build = write(folder / "b-1.duckdb", rows, list(dict.fromkeys([*ODD, *more])))
        write_folder(neuronpedia.members(Exporter(build, CONFIG)), folder / "tree")
        workspace = Workspace(folder / "workspace")
        again = Build.open(workspace.build(*import_dashboard(folder / "tree", workspace)))
        for latent in range(3):
            assert shown(again, latent) == shown(build, latent)
            assert listed(again, latent) == listed(build, latent)
        build.close()
        again.close()
