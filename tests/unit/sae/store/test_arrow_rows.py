"""Rows of Arrow columns are the ones that `to_pylist` returns."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.store.arrow_columns import whole
from sae.store.arrow_rows import ArrowRows

SMALL = st.integers(0, 255)
KINDS = {
    pa.uint8(): SMALL, pa.int64(): st.integers(-(2**63), 2**63 - 1), pa.float32(): st.floats(width=32, allow_nan=False),
    pa.string(): st.text(), pa.bool_(): st.booleans(), pa.list_(pa.uint16()): st.lists(SMALL),
    pa.list_(pa.float32()): st.lists(st.none() | st.floats(width=32, allow_nan=False)),
    pa.list_(pa.list_(pa.int32())): st.lists(st.lists(SMALL))}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    n = draw(st.integers(0, 6))
    columns = {}
    for number, (kind, values) in enumerate(KINDS.items()):
        values = st.none() | values if draw(st.booleans()) else values
        columns[f"c{number}"] = pa.array(draw(st.lists(values, min_size=n, max_size=n)), kind)
    return pa.table(columns)


@given(tables(), st.integers(0, 7), st.integers(0, 7), st.integers(0, 7))
def test_rows_are_the_ones_of_to_pylist(table: pa.Table, cut: int, first: int, end: int) -> None:
    batch = table.combine_chunks().slice(cut)
    columns = {name: whole(batch[name]) for name in batch.column_names}
    first, end = min(first, len(batch)), min(end, len(batch))
    expected = batch.slice(first, max(0, end - first)).to_pylist()
    rows = ArrowRows(columns)
    assert rows.read(first, max(first, end)) == expected
    assert rows.read(first, max(first, end), ["c1", "c5"]) == [
        {"c1": row["c1"], "c5": row["c5"]} for row in expected]


def test_an_unknown_column_is_an_error() -> None:
    with pytest.raises(KeyError):
        ArrowRows({"a": pa.array([1])}).read(0, 1, ["b"])
