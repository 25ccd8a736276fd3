"""Columns are those that pyarrow makes itself, and none of them needs pandas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sae.store.arrow_columns import arrow_column, arrow_table, floats, list_column, list_offsets, numpy_of

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("values", [
    np.arange(5, dtype=kind) for kind in (np.int64, np.int32, np.uint16, np.uint8, np.float32, np.float64)
] + [RNG.random(19) < 0.5, np.arange(12)[::3], np.zeros(0, np.int32), [], ["a", "", "é"], ["a", None], [b"\xff", b""],
     [1.5, None, -2.0], [3, None], [True, False], [None, None]])
def test_a_column_is_the_one_that_pyarrow_makes(values: Any) -> None:
    found = arrow_column(values)
    found.validate(full=True)
    expected = pa.array(values)
    assert found.to_pylist() == expected.to_pylist()
    if len(values) and any(value is not None for value in values):
        assert found.type == expected.type


def test_what_is_not_valid_and_nan_are_null() -> None:
    values = np.array([1.0, np.nan, 3.0], dtype=np.float32)
    assert floats(values).to_pylist() == [1.0, None, 3.0]
    assert arrow_column(values, np.array([False, True, True])).to_pylist()[0] is None


def test_lists_and_tables() -> None:
    lists = list_column(list_offsets(np.array([0, 2, 2, 3])), np.array([7, 8, 9], dtype=np.uint16))
    table = arrow_table({"l": lists, "n": np.arange(3), "s": ["x", "y", "z"], "c": pa.chunked_array([lists])})
    assert table.to_pydict() == {
        "l": [[7, 8], [], [9]], "n": [0, 1, 2], "s": ["x", "y", "z"], "c": [[7, 8], [], [9]]}


@pytest.mark.parametrize("values", [
    pa.array([1, 2, 3], pa.uint16()), pa.array([1, 2, 3, 4]).slice(1, 2), pa.chunked_array([[1.5, None, 2.5]]).slice(1),
    pa.chunked_array([[1, 2], [3]]), pa.chunked_array([], pa.int32()), pa.chunked_array([[4, None]])])
def test_numbers_of_a_column_are_those_that_pyarrow_gives(values: Any) -> None:
    assert np.array_equal(numpy_of(values), values.to_numpy(), equal_nan=True)
