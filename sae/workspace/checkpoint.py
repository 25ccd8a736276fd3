"""Checkpoints, which are written whole or not at all.  The one before is kept, in case the last one is damaged."""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch

from sae.errors import DamagedFile
from sae.workspace.files import atomic_write

log = logging.getLogger(__name__)


def save_checkpoint(path: Path, state: Any) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) to `path` atomically; keep the file that was there.

    There are never more than two copies on the disk: the one before goes first.
    """
    before_last(path).unlink(missing_ok=True)
    with atomic_write(path) as temporary:
        with open(temporary, "wb") as file:  # given a path, torch does not say why it could not write
            torch.save(state, file)
        if path.exists():
            try:
                os.link(path, before_last(path))  # `path` is there at every moment
            except OSError:  # a file system without hard links
                os.replace(path, before_last(path))


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Any | None:
    """Return the state saved last at `path`, or the one before if it is damaged, or None if there is none.

    No pickled code is run.  Raises DamagedFile (field `run`) if there is none that can be read.
    """
    fault: DamagedFile | None = None
    for file in (path, before_last(path)):
        try:
            if (state := read_checkpoint(file, device)) is not None:
                return state
        except DamagedFile as error:
            log.warning("%s", error)
            fault = fault or error
    if fault is not None:
        raise fault
    return None


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> Any | None:
    """Return the state in this very file, or None if there is none.  Raises DamagedFile (field `run`)."""
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if (part := archive.testzip()) is not None:  # torch itself does not check the sums
                raise zipfile.BadZipFile(f"the sum of {part} is wrong")
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).strip().partition("\n")[0][:200]
        raise DamagedFile(f"run: its checkpoint {path.name} is damaged ({reason}); delete it, then resume the run, "
                          "which starts from the checkpoint before or from the beginning", path, "run") from None


def before_last(path: Path) -> Path:
    """Return the path of the checkpoint before the one at `path`."""
    return path.with_name(f"{path.name}.before")


class Saver:
    """A writer of checkpoints in a background thread, one at a time.  Without a path it writes none.

    The caller must not change a state after passing it to `save`.  A failed write is raised by the next `save` or at
    the end of the block.  The last checkpoint is written before the block ends.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def load(self) -> Any | None:
        """Return the state that an earlier process saved last, or None."""
        return load_checkpoint(self._path) if self._path else None

    def save(self, state: Any) -> None:
        """Start writing `state` once the previous write has ended.  Raises what the previous write raised."""
        self._wait()
        if self._path:
            self._pending = self._thread.submit(save_checkpoint, self._path, state)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self._wait()
