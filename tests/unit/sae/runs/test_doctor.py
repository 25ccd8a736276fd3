"""Each fault of a workspace's files is found, and what is safe to mend is mended."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import duckdb
import pytest

from sae.runs.doctor import Finding, examine
from sae.runs.folder import RunFolder
from sae.store.page_file import page_file_path
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace
from tests.unit.sae.runs.conftest import GONE, STOCKED, leftover


def only(workspace: Workspace, deep: bool = False) -> Finding:
    [found] = examine(workspace, deep)
    return found


@pytest.mark.parametrize("deep", [False, True])
def test_a_workspace_in_order_has_no_faults(stocked: Workspace, deep: bool) -> None:
    assert list(examine(stocked, deep)) == []


@pytest.mark.parametrize(("content", "kind", "wrong"), [
    (None, "missing", "sae.safetensors is missing"), (b"cut", "damaged", "sae.safetensors is damaged")])
def test_weights(stocked: Workspace, content: bytes | None, kind: str, wrong: str) -> None:
    path = stocked.sae(STOCKED) / "sae.safetensors"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    found = only(stocked)
    assert (found.kind, found.what, found.fix) == (kind, STOCKED, None)
    assert found.wrong.startswith(wrong)
    assert f"saescope delete {STOCKED}" in str(found)


def test_a_damaged_configuration(stocked: Workspace) -> None:
    (stocked.sae(STOCKED) / "sae.json").write_text("{")
    found = only(stocked)
    assert (found.kind, found.what) == ("damaged", STOCKED)
    assert found.wrong.startswith("sae.json is not JSON")


def test_a_claim_of_a_run_that_ended_is_dropped_with_its_folder(stocked: Workspace) -> None:
    claim = stocked.sae("demo/claimed") / "claim.json"
    running = RunFolder(stocked.run("train-2"))
    running.create("train", {})
    write_json(claim, {"run": "train-2", "folder": str(running.path)})
    assert list(examine(stocked)) == [], "its run may still begin"
    write_json(claim, {"run": "train-1", "folder": str(stocked.run("train-1"))})
    found = only(stocked)
    assert (found.kind, found.what) == ("stale", "saes/demo/claimed/claim.json")
    assert found.fix is not None
    found.fix()
    assert not claim.parent.exists()


def test_a_build_without_its_sae(stocked: Workspace) -> None:
    shutil.rmtree(stocked.sae(STOCKED))
    found = only(stocked)
    assert (found.kind, found.what, found.wrong) == ("orphaned", f"{STOCKED}, build b1", "its SAE is not here")


def test_a_page_file_is_made_again(stocked: Workspace) -> None:
    path = page_file_path(stocked.build(STOCKED, "b1"))
    path.write_bytes(b"cut")
    found = only(stocked)
    assert (found.kind, found.what) == ("missing", f"{STOCKED}, build b1")
    assert found.fix is not None
    found.fix()
    assert list(examine(stocked)) == []


def test_a_page_file_without_its_build(stocked: Workspace) -> None:
    path = stocked.builds(STOCKED) / "b9.arrow"
    path.touch()
    found = only(stocked)
    assert (found.kind, found.what) == ("orphaned", f"builds/{STOCKED}/b9.arrow")
    assert found.fix is not None
    found.fix()
    assert not path.exists()


def test_a_build_that_is_cut_off_or_has_no_description(stocked: Workspace, tmp_path: Path) -> None:
    path = stocked.build(STOCKED, "b1")
    with open(path, "rb+") as file:
        file.truncate(50_000)
    found = only(stocked)
    assert (found.kind, found.what) == ("damaged", f"{STOCKED}, build b1")
    assert found.wrong.startswith("it has 50,000 of its ")
    assert f"saescope index --sae {STOCKED}" in found.mend
    path.unlink()
    duckdb.connect(str(path)).close()
    found = only(stocked)
    assert (found.kind, found.what) == ("damaged", f"{STOCKED}, build b1")
    assert "meta" in found.wrong


def test_a_damaged_block_is_found_only_by_reading_it(stocked: Workspace) -> None:
    path = stocked.build(STOCKED, "b1")
    with duckdb.connect(str(path), read_only=True) as con:
        of_text, of_meta = ({block for block, in con.execute(
            f"SELECT block_id FROM pragma_storage_info('{table}') WHERE block_id >= 0").fetchall()}
            for table in ("text", "meta"))
    blocks = of_text - of_meta  # the shallow check reads the description
    content = bytearray(path.read_bytes())
    for block in blocks:
        content[3 * 4096 + block * 262_144 + 5000] ^= 0xFF  # past the three headers
    path.write_bytes(content)
    assert blocks
    assert list(examine(stocked)) == []
    found = only(stocked, deep=True)
    assert (found.kind, found.what) == ("damaged", f"{STOCKED}, build b1")


def test_runs_that_stopped_or_cannot_be_read(stocked: Workspace) -> None:
    folder = RunFolder(stocked.run("index-9"))
    folder.create("index", {"sae": STOCKED})
    status = folder.path / "status.json"
    write_json(status, {"state": "running", "heartbeat": time.time(), "pid": GONE})
    assert list(examine(stocked)) == [], "it may have started a moment ago"
    write_json(status, {"state": "running", "heartbeat": time.time() - 100, "pid": GONE})
    found = only(stocked)
    assert (found.kind, found.fix) == ("stale", None)
    assert found.wrong == "its status says running, but its process is gone"
    status.write_text("{")
    found = only(stocked)
    assert (found.kind, found.wrong) == ("damaged", "its status.json cannot be read")
    assert found.fix is not None
    found.fix()
    assert list(examine(stocked)) == []
    (folder.path / "spec.json").write_text("{")
    found = only(stocked)
    assert (found.kind, found.what, found.fix) == ("damaged", "run index-9", None)


def test_an_unfinished_file_of_a_process_that_is_gone(stocked: Workspace) -> None:
    path = leftover(stocked, GONE)
    found = only(stocked)
    assert (found.kind, found.what) == ("stale", f"corpora/{path.name}")
    assert found.fix is not None
    found.fix()
    assert not path.exists()
