from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sae.evaluation.results import (
    Anchor,
    StoredResult,
    StoredValue,
    from_json,
    read_result,
    read_results,
    result_path,
    write_result,
)

RESULT = StoredResult(
    "core", (StoredValue("fvu", 0.1, 0.05, 0.15, 10, "short", "share of variance"), StoredValue("l0", None)),
    {"curve": [1, 2]}, (Anchor("random dictionary", (StoredValue("fvu", 0.9),), "drawn"),), text="t", seeds=(0, 1),
    run="r", created=1.0)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_result(tmp_path, RESULT)
    write_result(tmp_path, StoredResult("absorption", refused="this model cannot spell"))
    assert read_result(tmp_path, "core") == RESULT
    assert [one.measure for one in read_results(tmp_path)] == ["absorption", "core"]
    assert RESULT.value("fvu") == RESULT.values[0]
    assert RESULT.value("x") is RESULT.anchors[0].value("l0") is None


def test_nan_is_written_as_null(tmp_path: Path) -> None:
    result = StoredResult("core", (StoredValue("a", float("nan"), float("-inf")),), {"b": [float("inf")]})
    write_result(tmp_path, result)
    found = read_result(tmp_path, "core")
    assert found is not None
    assert (found.values[0].value, found.values[0].low, found.detail) == (None, None, {"b": [None]})


@pytest.mark.parametrize("content", [
    [], {}, {"schema": 2, "measure": "core"}, {"schema": 1, "measure": "../x"},
    {"schema": 1, "measure": "core", "values": [{"value": 1}]},
    {"schema": 1, "measure": "core", "values": [{"key": "a", "value": "1"}]},
    {"schema": 1, "measure": "core", "values": 3}, {"schema": 1, "measure": "core", "seeds": ["x"]},
    {"schema": 1, "measure": "core", "anchors": [3]}, {"schema": 1, "measure": "core", "detail": []},
    {"schema": 1, "measure": "core", "created": "now"}])
def test_a_damaged_file_counts_as_missing(tmp_path: Path, content: Any) -> None:
    path = result_path(tmp_path, "core")
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    assert read_result(tmp_path, "core") is None
    assert read_results(tmp_path) == []
    with pytest.raises(ValueError, match=r"no result|no number|invalid"):
        from_json(content)
    path.write_text("{")
    assert read_result(tmp_path, "core") is None
