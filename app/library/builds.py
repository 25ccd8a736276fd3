"""The open builds, shared by all requests.

    with builds.use(sae_id, build_id) as build:
        build.latent(3)

A build is opened at its first use and stays open.  Beyond `capacity`, the least recently used build is closed
as soon as no request uses it.  A build's path is never reused for another one, so an open
build stays correct even after its file is deleted.  A build whose file was changed is opened again before its next
use.  If a build is damaged, the newest older build of its SAE that is not takes its place.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from sae.errors import DamagedFile, UserError
from sae.store.build import Build
from sae.store.damage import file_mark
from sae.workspace.paths import Workspace

Key = tuple[str, str]
Mark = tuple[int, int, int] | None

log = logging.getLogger(__name__)


class Builds:
    """The open builds, by (SAE id, build id)."""

    def __init__(self, workspace: Workspace, capacity: int = 16) -> None:
        self._workspace, self._capacity = workspace, capacity
        self._open: OrderedDict[Key, Build] = OrderedDict()  # the least recently used first
        self._n_users: dict[Key, int] = {}
        self._forgotten: set[Key] = set()
        self._damaged: dict[Key, tuple[Mark, DamagedFile]] = {}  # found damaged, with the file's mark at that time
        self._lock = Lock()

    @contextmanager
    def use(self, sae_id: str, build_id: str) -> Iterator[Build]:
        """Give the block the build, or an older one if it is damaged, and keep it open meanwhile.

        Raises UserError if it is missing or not a build, and DamagedFile if no older build can take its place.
        """
        key, build = self._take_good((sae_id, build_id))
        try:
            yield build
        except DamagedFile as error:
            with self._lock:
                self._forgotten.add(key)
                if error.path == build.path:
                    self._note(key, error)
            raise
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

    def _take_good(self, wanted: Key) -> tuple[Key, Build]:
        """Return the wanted build or, if it is damaged, the newest older one that is not, each with its key."""
        try:
            return wanted, self._take(wanted)
        except DamagedFile:
            for build_id in reversed(self._workspace.build_ids(wanted[0])):
                if build_id < wanted[1]:
                    try:
                        return (wanted[0], build_id), self._take((wanted[0], build_id))
                    except UserError:  # it is damaged, too, or of an earlier version
                        continue
            raise

    def _note(self, key: Key, error: DamagedFile) -> None:
        self._damaged[key] = file_mark(error.path), error
        log.error("%s", error)

    def _take(self, key: Key) -> Build:
        with self._lock:  # opening takes milliseconds, and the same file must not be opened twice
            mark, error = self._damaged.get(key, (None, None))
            if error is not None:
                if mark == file_mark(error.path):
                    raise DamagedFile(str(error), error.path, error.field)
                del self._damaged[key]
            build = self._open.get(key)
            if build is not None and not self._n_users.get(key) and build.changed_on_disk():
                self._open.pop(key).close()
                build = None
            if build is None:
                path = self._workspace.build(*key)
                if not path.is_file():
                    raise UserError(f"build: {key[1]} of {key[0]} no longer exists", "build")
                try:
                    build = self._open[key] = Build.open(path)
                except DamagedFile as fault:
                    self._note(key, fault)
                    raise
                self._forgotten.discard(key)
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
