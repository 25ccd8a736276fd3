"""The order of a dashboard's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae.formats.dashboards.records import batch_number


@pytest.mark.parametrize(("name", "number"), [
    ("batch-0.json", 0), ("batch-10.jsonl.gz", 10), ("batch-007.json", 7), ("batch-1_of_3.json", 1),
    ("batch-x.json", -1), ("other-3.json", -1)])
def test_files_are_ordered_by_their_number(name: str, number: int) -> None:
    assert batch_number(Path("folder-5") / name) == number
