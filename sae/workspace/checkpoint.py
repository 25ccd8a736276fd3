"""Checkpoints, which are written whole or not at all."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch

from sae.workspace.files import atomic_write


def save_checkpoint(path: Path, state: Any) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) to `path`, replacing the file atomically."""
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Any | None:
    """Return the state saved at `path`, or None if there is none.  No pickled code is run."""
    if not path.exists():
        return None
    return torch.load(path, map_location=device, weights_only=True)


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
