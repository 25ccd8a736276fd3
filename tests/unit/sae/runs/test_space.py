"""Tests of runs on a full disk: refused before they start, ended in one line, and resumed from their checkpoint."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sae.runs import execute as engine
from sae.runs.create import start
from sae.runs.execute import EXIT_OK, EXIT_USER, execute
from sae.runs.folder import RunFolder
from sae.runs.space import bytes_needed
from sae.specs.registry import TrainSpec
from sae.workspace.disk import is_full
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def _same_signals() -> Iterator[None]:
    """Restore the handlers that a run in this process replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_estimate_grows_with_the_dictionary_and_covers_the_checkpoint(workspace: Workspace) -> None:
    small, large = (TrainSpec(n_latents=n, index=False) for n in (256, 1024))
    assert bytes_needed(large, workspace) == 4 * bytes_needed(small, workspace)
    assert bytes_needed(small, workspace) >= 256 * 2 * 256 * 12
    assert bytes_needed(TrainSpec(n_latents=256), workspace) > bytes_needed(small, workspace)


def test_a_run_that_would_not_fit_is_refused_before_it_starts(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = start("train", {"n_latents": 4096}, workspace)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 150_000_000))
    assert execute(folder, workspace) == EXIT_USER
    status = folder.status()
    assert status is not None
    assert status.state == "failed"
    assert status.error is not None
    assert status.error.startswith("disk: this run needs about ")
    assert "150 MB are free" in status.error
    assert capfd.readouterr().err.count("\n") == 1


def test_a_disk_that_fills_up_ends_the_run_in_one_line(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> dict[str, Any]:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("torch could not save") from error

    write_json(workspace.sae("demo/x") / "sae.json", {"schema_version": 1})
    folder = start("evaluate", {"sae": "demo/x"}, workspace)
    folder.checkpoints.mkdir()
    (folder.checkpoints / "train.pt.before").write_bytes(b"x")
    monkeypatch.setattr(engine.evaluate, "run_evaluate", full)
    assert execute(folder, workspace) == EXIT_USER
    said = capfd.readouterr().err
    assert said.startswith("error: disk: the disk is full; free some space")
    assert said.count("\n") == 1
    status = folder.status()
    assert status is not None
    assert (status.state, status.error) == ("failed", said.removeprefix("error: ").strip())
    assert list(folder.checkpoints.iterdir()) == [], "it made room for the status"


def test_a_status_that_cannot_be_written_does_not_end_a_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sae.runs.progress import Reporter

    folder = RunFolder(workspace.run("index-1"))
    folder.create("index", {})
    reporter = Reporter(folder, {"index": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder, "write_status", full)
    reporter.begin("index", 10)
    reporter.update(5)
    with pytest.raises(OSError, match="space"):
        reporter.finish("succeeded")


@pytest.mark.heavy
def test_a_real_run_says_that_the_disk_is_full_and_resumes(workspace: Workspace, tmp_path: Path) -> None:
    """Limit the size of files, which the system reports like a full disk, and then lift the limit."""
    text = tmp_path / "text.txt"
    text.write_text("<|endoftext|>".join(f"def f{n}(x):\n    return x + {n}\n" * 40 for n in range(60)))
    folder = start("train", {
        "text": str(text), "n_latents": 512, "tokens": 2048, "batch_tokens": 256, "buffer_tokens": 1024, "k": 8,
        "eval_tokens": 1000, "ce_tokens": 256, "index": False, "device": "cpu"}, workspace)
    program = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
sys.argv = ["saescope", "run", "--quiet", {str(folder.path)!r}]
from sae.cli.main import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=os.getcwd(),
        preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN))
    assert done.returncode == EXIT_USER, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: disk: the disk is full")
    status = folder.status()
    assert status is not None
    assert status.state == "failed"
    assert execute(folder, workspace) == EXIT_OK


def test_words_of_libraries_without_error_numbers() -> None:
    for words in ("IO Error: Could not write file: No space left on device", "1000 requested and 12 written",
                  "Error while serializing: I/O error: File too large (os error 27)"):
        assert is_full(RuntimeError(words))
