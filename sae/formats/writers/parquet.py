"""Writer of a build as Parquet files, one per table of `sae/store/schema.py`.  No torch.

`meta.json` has the provenance.  Tables are read and written in batches, in the order of the schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow.parquet as pq

from sae.formats.writers.archive import Member, Sink
from sae.store.build import Build
from sae.store.schema import CONTEXT_COLUMNS, TABLES

_ROWS = 16_384  # rows per row group, so that sorted tables can be read in part

# The view of contexts replaces the two tables in which a build stores them.
_EXPORTED = {name: value for name, value in TABLES.items() if name not in ("meta", "place", "text")} | {
    "context": (CONTEXT_COLUMNS, TABLES["place"][1])}


def members(build: Build) -> Iterator[Member]:
    """Yield `meta.json`, a README, and `{table}.parquet` for every table that has rows."""
    yield "meta.json", [json.dumps(build.meta, indent=1).encode()]
    yield "README.md", [_readme(build).encode()]
    for name, (_, order) in _EXPORTED.items():
        if build.n_rows(name) or (name == "context" and build.n_rows("place")):
            yield f"{name}.parquet", _table(build, name, order)


def _table(build: Build, name: str, order: str) -> Iterator[bytes]:
    reader = build.arrow(f"SELECT * FROM {name} ORDER BY {order}", _ROWS)
    sink = Sink()
    with pq.ParquetWriter(sink, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            yield sink.take()
    yield sink.take()


def _readme(build: Build) -> str:
    tables = "\n".join(f"- `{name}.parquet`, sorted by {order}: {columns}"
                       for name, (columns, order) in _EXPORTED.items())
    return f"""# Build {build.id} of {build.meta['sae_id']}

Made by `{build.meta.get('command')}` over {build.meta.get('text')}. Activations are in units of a unit-norm decoder.
BOS has `position` 0, and all tokens except BOS are counted. `token.piece` has the bytes of each token.

{tables}
"""
