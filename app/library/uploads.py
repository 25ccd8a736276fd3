"""Uploaded files: staged in the workspace, limited in size, and deleted when they are no longer needed.

    uploads/<token>/         the files of a form that is not submitted yet
    uploads/.<token>.part/   an upload in progress; the server's start removes interrupted ones
    runs/<id>/upload/        the files of a queued run, which are deleted with it
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

UPLOAD_FORM_BYTES = 1_000_000  # the limit for a form's other fields
KEEP_S = 86_400  # the files of a form that is not submitted within this time are deleted
_CHUNK = 1 << 20
_TOKEN = re.compile(r"[0-9a-f]{32}")


class Uploads:
    """The uploads of a workspace, each at most `limit` bytes, also when unpacked."""

    def __init__(self, home: Path, limit: int) -> None:
        self.root, self.limit = home / "uploads", limit

    def stage(self, files: Sequence[tuple[str, BinaryIO]]) -> str:
        """Store the files of a form, unpack a zip, and return the token that `find` takes.

        Raises UserError (field `source`), and stores nothing, for too many bytes or an unsafe archive.
        """
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
            # A browser may send a whole path; only its last part is used, and only as a plain name.
            last = PurePosixPath(name.replace("\\", "/")).name
            stem, dot, suffix = last.rpartition(".")
            plain = f"{slug(stem)}.{slug(suffix)}" if dot and stem else slug(last)
            if (folder / plain).exists():
                raise UserError(f"source: two of the files would be named {plain}; upload them as a zip", "source")
            with open(folder / plain, "xb") as out:
                while chunk := source.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        raise UserError(f"source: the files have more than {self.limit:,} bytes, the limit of "
                                        "SAESCOPE_MAX_UPLOAD_BYTES; give a path on the server instead", "source")
                    out.write(chunk)

    def find(self, token: str) -> Path | None:
        """Return the folder of an earlier upload, or None if it is gone."""
        path = self.root / token
        return path if _TOKEN.fullmatch(token) and path.is_dir() else None

    def give(self, token: str, folder: Path) -> None:
        """Move an upload to its run's `folder`.  Raises UserError (field `source`) if it is gone."""
        path = self.find(token)
        if path is None:
            raise UserError("source: the uploaded files are gone; choose them again", "source")
        folder.parent.mkdir(parents=True, exist_ok=True)
        path.rename(folder)

    def drop(self, token: str) -> None:
        """Remove an unusable upload."""
        if path := self.find(token):
            shutil.rmtree(path, ignore_errors=True)

    def sweep_unfinished(self) -> None:
        """Remove interrupted uploads, at the server's start."""
        for path in self.root.glob(".*.part"):
            shutil.rmtree(path, ignore_errors=True)

    def sweep_abandoned(self) -> None:
        """Remove the uploads of forms that were not submitted for a day.  The clock must be right."""
        for path in self.root.iterdir() if self.root.is_dir() else ():
            if time.time() - path.stat().st_mtime > KEEP_S:
                shutil.rmtree(path, ignore_errors=True)
