"""Builds that are open, shared by all requests.

    with builds.use(sae_id, build_id) as build:
        build.latent(3)

A build is opened at its first use and kept; past `capacity` the one used longest ago is closed
as soon as nobody reads it.  Since a build's path is never used again for another one, an open
build stays right for ever, even after its file is deleted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from sae.errors import UserError
from sae.store.build import Build
from sae.workspace.paths import Workspace

Key = tuple[str, str]


class Builds:
    """The open builds, by (SAE id, build id)."""

    def __init__(self, workspace: Workspace, capacity: int = 8) -> None:
        self._workspace, self._capacity = workspace, capacity
        self._open: OrderedDict[Key, Build] = OrderedDict()  # used longest ago first
        self._readers: dict[Key, int] = {}
        self._lock = Lock()

    @contextmanager
    def use(self, sae_id: str, build_id: str) -> Iterator[Build]:
        """The build, kept open while the block runs.  Raises UserError where it is gone or no build."""
        key = (sae_id, build_id)
        build = self._take(key)
        try:
            yield build
        finally:
            with self._lock:
                self._readers[key] -= 1
                closing = self._surplus()
            for old in closing:
                old.close()

    def close(self) -> None:
        """Close all; for the end of the program."""
        with self._lock:
            builds = list(self._open.values())
            self._open.clear()
        for build in builds:
            build.close()

    def _take(self, key: Key) -> Build:
        with self._lock:  # opening takes milliseconds, and twice the same file must not be opened
            build = self._open.get(key)
            if build is None:
                path = self._workspace.build(*key)
                if not path.is_file():
                    raise UserError(f"build: {key[1]} of {key[0]} is no longer there", "build")
                build = self._open[key] = Build.open(path)
            self._open.move_to_end(key)
            self._readers[key] = self._readers.get(key, 0) + 1
            return build

    def _surplus(self) -> list[Build]:
        idle = [key for key in self._open if not self._readers.get(key)]
        surplus = idle[: max(0, len(self._open) - self._capacity)]
        for key in surplus:
            del self._readers[key]
        return [self._open.pop(key) for key in surplus]
