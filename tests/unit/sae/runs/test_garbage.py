"""Only what nothing needs is garbage: each kind, and what must stay."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from sae.runs.folder import RunFolder, Status
from sae.runs.garbage import Garbage, find_garbage
from sae.store.page_file import page_file_path
from sae.workspace.paths import Workspace
from tests.unit.sae.runs.conftest import GONE, STOCKED, copy_build, leftover

DAY_S = 86_400.0


def found_in(workspace: Workspace, days: float = 30) -> dict[str, Garbage]:
    return {one.paths[0].relative_to(workspace.root).as_posix(): one for one in find_garbage(workspace, days)}


def test_a_workspace_in_order_has_no_garbage(stocked: Workspace) -> None:
    assert found_in(stocked) == {}


@pytest.mark.parametrize(("state", "age_days", "reason"), [
    ("succeeded", 0, "the run r has succeeded"), ("failed", 31, "the run r was failed more than 30 days ago"),
    ("cancelled", 31, "the run r was cancelled more than 30 days ago"), ("failed", 29, None), ("running", 99, None)])
def test_checkpoints_are_needed_until_their_run_has_succeeded_or_is_old(
    stocked: Workspace, state: str, age_days: float, reason: str | None
) -> None:
    run = RunFolder(stocked.run("r"))
    run.create("train", {})
    run.checkpoints.mkdir()
    run.write_status(Status(state=state, finished=time.time() - age_days * DAY_S))
    assert found_in(stocked) == {}, "there is no checkpoint yet"
    (run.checkpoints / "train.pt").write_bytes(b"x" * 100)
    found = {name: (one.kind, one.reason, one.n_bytes) for name, one in found_in(stocked).items()}
    assert found == ({} if reason is None else {"runs/r/ckpt": ("checkpoint", reason, 100)})


def test_a_newer_build_replaces_older_ones_unless_it_is_damaged(stocked: Workspace, small_build: Path) -> None:
    (stocked.builds(STOCKED) / "b3.duckdb").write_bytes(b"damaged")
    assert found_in(stocked) == {}, "b1 is the last good one"
    copy_build(small_build, stocked, "b2")
    [(name, one)] = found_in(stocked).items()
    assert (name, one.kind, one.reason) == (f"builds/{STOCKED}/b1.duckdb", "build", "b2 replaces it")
    path = stocked.build(STOCKED, "b1")
    assert one.n_bytes == path.stat().st_size + page_file_path(path).stat().st_size
    one.remove()
    one.remove()  # what is gone already is no error
    assert not page_file_path(path).exists()
    assert stocked.build_ids(STOCKED) == ["b2", "b3"]


def test_a_corpus_is_garbage_if_nothing_refers_to_it_and_it_is_old(stocked: Workspace) -> None:
    config = stocked.sae(STOCKED) / "sae.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "training": {"corpus": "trained-on"}}))
    for name in ("trained-on", "old", "new"):
        folder = stocked.corpus(name)
        folder.mkdir(parents=True)
        (folder / "tokens.bin").write_bytes(b"x" * 7)
        if name != "new":
            os.utime(folder, (1, 1))
    [(name, one)] = found_in(stocked).items()
    assert (name, one.kind, one.n_bytes) == ("corpora/old", "corpus", 7)
    one.remove()
    assert not stocked.corpus("old").exists()


def keep_activations(workspace: Workspace, name: str, *, finished: bool = True) -> Path:
    folder = workspace.activations(name)
    folder.mkdir(parents=True)
    for file in ("plan.json", *(["meta.json"] if finished else [])):
        (folder / file).write_text(json.dumps({"corpus": f"of-{name}"}))
    os.utime(folder, (1, 1))
    return folder


def test_kept_activations_are_garbage_once_no_run_has_used_them_for_long(stocked: Workspace) -> None:
    for name in ("unused", "broken", "read", "being-read", "being-made"):
        keep_activations(stocked, name, finished=name not in ("broken", "being-made"))
    ended = Status(state="succeeded", finished=time.time() - 2 * DAY_S)
    for run_id, kind, values, status in (
            ("train-has-read", "train", {"activations": "read"}, ended),
            ("train-reads", "train", {"activations": "being-read"}, Status(state="running")),
            ("activations-being-made", "activations", {}, None)):
        run = RunFolder(stocked.run(run_id))
        run.create(kind, values)  # type: ignore[arg-type]
        if status is not None:
            run.write_status(status)
    assert {name: (one.kind, one.reason) for name, one in found_in(stocked).items()} == {
        "activations/unused": ("activations", "no run has read them for 30 days"),
        "activations/broken": ("activations", "the run that kept them did not finish")}
    assert set(found_in(stocked, days=1)) == {f"activations/{name}" for name in ("unused", "broken", "read")}


def test_the_text_of_kept_activations_is_needed(stocked: Workspace) -> None:
    keep_activations(stocked, "unused")
    for name in ("of-unused", "of-nothing"):
        stocked.corpus(name).mkdir(parents=True)
        os.utime(stocked.corpus(name), (1, 1))
    assert set(found_in(stocked)) == {"activations/unused", "corpora/of-nothing"}


def test_unfinished_files_are_garbage_once_their_process_is_gone(stocked: Workspace) -> None:
    ours, elsewhere = leftover(stocked, os.getpid()), leftover(stocked, GONE, host="elsewhere")
    gone = leftover(stocked, GONE)
    (gone.parent / ".notes.tmp").touch()  # not a name that the program gives
    assert set(found_in(stocked)) == {f"corpora/{gone.name}"}
    os.utime(elsewhere, (time.time() - 2 * DAY_S,) * 2)  # whether it still runs there is unknown
    os.utime(ours, (1, 1))
    assert set(found_in(stocked)) == {f"corpora/{gone.name}", f"corpora/{elsewhere.name}"}


def test_uploads_of_yesterday_and_the_rest_of_a_deletion(stocked: Workspace) -> None:
    for name in ("old", "new"):
        (stocked.root / "uploads" / name).mkdir(parents=True)
    os.utime(stocked.root / "uploads" / "old", (time.time() - 2 * DAY_S,) * 2)
    (stocked.root / "trash").mkdir()
    assert {name: one.kind for name, one in found_in(stocked).items()} == {
        "uploads/old": "staging", "trash": "staging"}


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    Garbage("staging", (tmp_path / "link",), "", 0).remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
