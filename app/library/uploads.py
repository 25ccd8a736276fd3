"""Files that come with a request: staged in the workspace, checked for size, gone when nobody wants them.

    uploads/<token>/         the files of a form that is being filled in
    uploads/.<token>.part/   an upload that goes on; one that was interrupted is swept away
    runs/<id>/upload/        from when the run is queued, so that they go with it
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sae.errors import UserError
from sae.formats.untrusted_tensors import is_archive, unpack
from sae.workspace.paths import slug

UPLOAD_FORM_BYTES = 1_000_000  # what a form may hold besides its files
KEEP_S = 86_400  # a form that is not sent for so long has been given up
_CHUNK = 1 << 20
_TOKEN = re.compile(r"[0-9a-f]{32}")


class Uploads:
    """The uploads of a workspace, each `limit` bytes at the most, also when unpacked."""

    def __init__(self, home: Path, limit: int) -> None:
        self.root, self.limit = home / "uploads", limit

    def stage(self, files: Sequence[tuple[str, BinaryIO]]) -> str:
        """Keep the files of a form, a zip unpacked; the token to find them by.  Raises UserError (field
        `source`) for too many bytes or an archive that is not to be trusted; then nothing is kept."""
        self.sweep()
        token = secrets.token_hex(16)
        part = self.root / f".{token}.part"
        part.mkdir(parents=True)
        try:
            self._write(files, part)
            archives = [path for path in part.iterdir() if is_archive(path)]
            if len(archives) == 1 and len(files) == 1:
                (part / "inside").mkdir()
                unpack(archives[0], part / "inside", self.limit)
                (part / "inside").rename(self.root / token)
            else:
                part.rename(self.root / token)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return token

    def _write(self, files: Sequence[tuple[str, BinaryIO]], folder: Path) -> None:
        left = self.limit
        for name, source in files:
            # A browser may send a whole path; only its last part is of interest, and only as a plain name.
            last = PurePosixPath(name.replace("\\", "/")).name
            stem, dot, suffix = last.rpartition(".")
            plain = f"{slug(stem)}.{slug(suffix)}" if dot and stem else slug(last)
            if (folder / plain).exists():
                raise UserError(f"source: two of the files would both be called {plain}; send them as a zip", "source")
            with open(folder / plain, "xb") as out:
                while chunk := source.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        raise UserError(f"source: more than {self.limit:,} bytes, the most that "
                                        "SAESCOPE_MAX_UPLOAD_BYTES allows; give a path on the server instead", "source")
                    out.write(chunk)

    def find(self, token: str) -> Path | None:
        """The folder of an earlier upload, or None where it is gone."""
        path = self.root / token
        return path if _TOKEN.fullmatch(token) and path.is_dir() else None

    def give(self, token: str, folder: Path) -> None:
        """Move an upload to where its run will look for it.  Raises UserError where it is gone."""
        path = self.find(token)
        if path is None:
            raise UserError("source: the uploaded files are gone; choose them again", "source")
        folder.parent.mkdir(parents=True, exist_ok=True)
        path.rename(folder)

    def drop(self, token: str) -> None:
        """Remove an upload that cannot be used."""
        if path := self.find(token):
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self, everything_unfinished: bool = False) -> None:
        """Remove uploads nobody came back for; at the server's start those it was interrupted in, too."""
        for path in self.root.iterdir() if self.root.is_dir() else ():
            unfinished = path.name.startswith(".") and everything_unfinished
            if unfinished or time.time() - path.stat().st_mtime > KEEP_S:
                shutil.rmtree(path, ignore_errors=True)
