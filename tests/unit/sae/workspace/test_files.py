"""Files and folders appear whole or not at all; locks end with their process."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest
from filelock import Timeout

from sae.workspace import files
from sae.workspace.files import atomic_write, lock, write_json


@pytest.mark.parametrize("before", [None, "old"])
def test_a_file_is_there_when_it_is_whole(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "new" / "file.txt"
    if before is not None:
        path.parent.mkdir()
        path.write_text(before)
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        assert (path.read_text() if path.exists() else None) == before
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_raises_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_threads_that_write_one_path_are_not_in_each_others_way(tmp_path: Path) -> None:
    path, both = tmp_path / "file.txt", threading.Barrier(2)

    def write(text: str) -> None:
        with atomic_write(path) as temporary:
            temporary.write_text(text)
            both.wait(30)  # both temporary files exist now
        seen.append(path.read_text())

    seen: list[str] = []
    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(seen) <= {"one", "two"}
    assert len(seen) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_never_put_over_another(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for wanted in ("first", "second"):
        try:
            with atomic_write(path) as temporary:
                (temporary / "inside").mkdir(parents=True)
                (temporary / "inside" / "file").write_text(wanted)
        except OSError:
            assert wanted == "second"
    assert (path / "inside" / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def _die_while_writing(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    process = multiprocessing.get_context("spawn").Process(target=_die_while_writing, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    alive = path.with_name(f".{path.name}.{files.HOST}-{os.getppid()}.tmp")  # another process is writing now
    elsewhere = path.with_name(f".{path.name}.another_host-1.tmp")
    for other in (alive, elsewhere):
        other.write_text("half")
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert sorted(tmp_path.iterdir()) == sorted([path, alive, elsewhere])


def test_json_without_the_numbers_that_json_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def _hold(path: Path, held: object) -> None:
    with lock(path):
        held.set()  # type: ignore[attr-defined]
        signal.pause()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "lock", held))
    process.start()
    assert held.wait(60)
    mine = lock(tmp_path / "lock")
    with pytest.raises(Timeout):
        mine.acquire(blocking=False)
    process.kill()
    process.join()
    mine.acquire(timeout=10)
    mine.release()
