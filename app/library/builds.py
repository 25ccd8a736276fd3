"""The open builds, shared by all requests.

    with builds.use(sae_id, build_id) as build:
        build.latent(3)

A build is opened at its first use and stays open.  Beyond `capacity`, the least recently used build is closed
as soon as no request uses it.  A build's path is never reused for another one, so an open
build stays correct even after its file is deleted.
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
        self._open: OrderedDict[Key, Build] = OrderedDict()  # the least recently used first
        self._n_users: dict[Key, int] = {}
        self._forgotten: set[Key] = set()
        self._lock = Lock()

    @contextmanager
    def use(self, sae_id: str, build_id: str) -> Iterator[Build]:
        """Give the block the build and keep it open meanwhile.  Raises UserError if it is missing or not a build."""
        key = (sae_id, build_id)
        build = self._take(key)
        try:
            yield build
        finally:
            with self._lock:
                self._n_users[key] -= 1
                closing = self._surplus()
            for old in closing:
                old.close()

    def forget(self, sae_id: str) -> None:
        """Close the builds of an SAE that is deleted or renamed, each as soon as nobody reads it."""
        with self._lock:
            self._forgotten |= {key for key in self._open if key[0] == sae_id}
            closing = self._surplus()
        for build in closing:
            build.close()

    def close(self) -> None:
        """Close all builds, at the end of the program."""
        with self._lock:
            builds = list(self._open.values())
            self._open.clear()
        for build in builds:
            build.close()

    def _take(self, key: Key) -> Build:
        with self._lock:  # opening takes milliseconds, and the same file must not be opened twice
            build = self._open.get(key)
            if build is None:
                path = self._workspace.build(*key)
                if not path.is_file():
                    raise UserError(f"build: {key[1]} of {key[0]} no longer exists", "build")
                build = self._open[key] = Build.open(path)
                # Other processes delete SAEs, too; an open file would keep its disk space.
                self._forgotten |= {old for old in self._open if not self._workspace.build(*old).is_file()}
            self._open.move_to_end(key)
            self._n_users[key] = self._n_users.get(key, 0) + 1
            return build

    def _surplus(self) -> list[Build]:
        idle = [key for key in self._open if not self._n_users.get(key)]
        surplus = [key for i, key in enumerate(idle)
                   if i < len(self._open) - self._capacity or key in self._forgotten]
        for key in surplus:
            self._n_users.pop(key, None)
            self._forgotten.discard(key)
        return [self._open.pop(key) for key in surplus]
