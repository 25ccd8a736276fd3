"""Tests of the disk's faults in words, and of the check of free space."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from sae.errors import UserError
from sae.workspace.disk import fault_words, is_full, need_space, open_workspace

Usage = namedtuple("Usage", "total used free")


def test_a_full_disk_is_known_by_its_cause() -> None:
    error = RuntimeError("could not write")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_full(error)
    assert is_full(OSError(errno.EDQUOT, "quota"))
    assert is_full(Exception("database or disk is full"))
    assert not is_full(OSError(errno.EACCES, "denied"))


def test_a_fault_of_the_program_has_no_words() -> None:
    assert fault_words(FileNotFoundError(errno.ENOENT, "none", "x")) == ""
    assert fault_words(OSError(errno.EROFS, "ro", "/x")).startswith("no permission to write (/x)")


def test_a_workspace_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match="a file is where a folder should be"):
        open_workspace(tmp_path / "data")
    with pytest.raises(UserError, match="a file is where a folder should be"):
        open_workspace(tmp_path / "data" / "below")


def test_a_workspace_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UserError, match="cannot be used: no permission to write"):
        open_workspace(tmp_path / "data")


def test_space_is_checked_where_the_folder_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 2 * 10**9))
    need_space(tmp_path / "not" / "yet", 10**9, "the run")
    with pytest.raises(UserError, match=r"disk: the run needs about 5.1 GB, and 2.0 GB are free") as caught:
        need_space(tmp_path, 5 * 10**9, "the run")
    assert caught.value.field == "disk"


@pytest.mark.parametrize("words", [["train", "--tokens", "1000"], ["run", "x"]])
def test_a_command_in_a_workspace_that_is_a_file_says_one_line(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "data").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "sae", *words], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "SAESCOPE_HOME": str(tmp_path / "data")})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
