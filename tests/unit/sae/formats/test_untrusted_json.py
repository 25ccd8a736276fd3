"""Randomly damaged dashboard files: each is either read or refused with one line."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.errors import UserError
from sae.formats import untrusted_json
from sae.formats.dashboards.import_dashboard import open_dashboard
from sae.formats.dashboards.records import Example, Explained, Feature
from sae.formats.histogram_bins import Bins
from tests import FIXTURES

REAL = FIXTURES / "dashboards" / "saedashboard" / "batch-1.json"
BATCH = json.loads(REAL.read_text())
BATCH["features"] = BATCH["features"][:1]
BATCH["features"][0]["activations"] = BATCH["features"][0]["activations"][:4]
DATA = json.dumps(BATCH).encode()
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2), st.just([[[]]]), st.just(10**400), st.just("9" * 30))


def read_all(path: Path) -> int:
    """Read and check all records, and return their number."""
    n = 0
    dashboard = open_dashboard(path)
    list(dashboard.sample())
    for record in dashboard.records(lambda n: None):
        n += 1
        assert 0 <= record.latent < 2**24
        if isinstance(record, Example):
            assert len(record.tokens) == len(record.values) > 0
            assert all(abs(v) < 3e38 for v in record.values)
        elif isinstance(record, Feature):
            assert record.density is None or 0 <= record.density <= 1
            assert record.acts is None or isinstance(record.acts, Bins)
        else:
            assert isinstance(record, Explained)
    return n


def outcome(path: Path) -> None:
    refusal = None
    try:
        read_all(path)
    except UserError as error:
        refusal = error
    assert refusal is None or (refusal.field == "source" and "\n" not in str(refusal))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flipped_and_cut_bytes(data: st.DataObject) -> None:
    damaged = bytearray(DATA)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "batch-0.json").write_bytes(damaged)
        outcome(Path(folder))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(BATCH["features"][0])), st.sampled_from(sorted(BATCH["features"][0]["activations"][0])),
       JUNK, st.booleans())
def test_any_value_may_replace_any_other(key: str, inner: str, junk: object, deep: bool) -> None:
    batch = json.loads(DATA)
    feature = batch["features"][0]
    if deep:
        feature["activations"][1][inner] = junk
    else:
        feature[key] = junk
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "batch-0.json").write_text(json.dumps(batch))
        outcome(Path(folder))
        tree = Path(folder) / "v1" / "m" / "0-x"
        for kind, rows in (("features", [{"index": "0", **feature}]), ("activations", [{"index": 0, **row}
                for row in feature["activations"] if isinstance(row, dict)]
                if isinstance(feature["activations"], list) else [])):
            (tree / kind).mkdir(parents=True)
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (tree / kind / "batch-0.jsonl.gz").write_bytes(gzip.compress(text.encode(), 1))
        outcome(tree)


def test_undamaged_it_is_read() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "batch-0.json").write_bytes(DATA)
        assert read_all(Path(folder)) == 5


@given(st.lists(st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=2), max_size=9), st.integers(1, 4))
def test_lines_of_any_number_of_gzip_members(rows: list[dict[str, int]], members: int) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    step = max(1, -(-len(text) // members))
    packed = b"".join(gzip.compress(text[i : i + step]) for i in range(0, len(text), step))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl.gz"
        path.write_bytes(packed)
        reported: list[int] = []
        assert list(untrusted_json.lines(path, reported.append)) == rows
        assert sum(reported) == len(packed)


def test_a_deep_nesting_is_refused(tmp_path: Path) -> None:
    (tmp_path / "batch-0.json").write_text('{"features": ' + "[" * 200_000)
    with pytest.raises(UserError, match="not JSON"):
        open_dashboard(tmp_path)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_bytes(DATA)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "batch-0.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(UserError, match="neither a Neuronpedia export nor"):
        open_dashboard(tmp_path / "in")
