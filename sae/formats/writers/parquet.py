"""A build as Parquet files, one a table, as `sae/store/schema.py` describes them.  No torch.

`meta.json` has the provenance.  Tables are read and written in batches, in their own order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow.parquet as pq

from sae.formats.writers.archive import Member, Sink
from sae.store.build import Build
from sae.store.schema import CONTEXT_COLUMNS, TABLES

_ROWS = 16_384  # of a row group: sorted tables can then be read in part


# Contexts with their tokens in place of the two tables that they are kept in.
_EXPORTED = {name: value for name, value in TABLES.items() if name not in ("meta", "place", "text")} | {
    "context": (CONTEXT_COLUMNS, TABLES["place"][1])}


def members(build: Build) -> Iterator[Member]:
    """`meta.json` and `{table}.parquet` for every table that has rows."""
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
    return f"""# Feature build {build.id} of {build.meta['sae_id']}

Made by `{build.meta.get('command')}` over {build.meta.get('text')}. Activations are in units of a unit-norm decoder;
`position` counts BOS as 0; counted tokens are all but BOS. `token.piece` has the bytes of each token.

{tables}
"""
