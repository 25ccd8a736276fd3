"""Paths of everything on disk: the workspace (`SAESCOPE_HOME`, default `./data`).

    app.db                              the web program's own database
    corpora/<id>/                       tokenised text
    activations/<name>/                 activations that are kept for several trainings
    saes/<model>/<sae>/                 sae.safetensors, sae.json
    runs/<id>/                          one folder per run
    builds/<model>/<sae>/<build>.duckdb finished builds, immutable

An SAE's id is `<model>/<sae>`, which is also its address in the browser.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from sae.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
# First path segments that belong to pages of the program; no model may have such a name.
RESERVED = frozenset({
    "account", "admin", "api", "compare", "docs", "effects", "favicon.ico", "healthz", "inspect", "latents", "lists",
    "login", "logout", "metrics", "openapi.json", "readyz", "robots.txt", "runs", "search", "static", "steer",
    "tokens"})


def slug(text: str) -> str:
    """Return `text` as a name that is safe in a path and in a URL; it is never empty."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._").lower()[:80]
    return name or "unnamed"


def check_name(name: str, field: str = "name") -> str:
    """Return `name` if it can be a path segment and a URL segment.  Raises UserError (field `field`)."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{field}: {name!r} is not a usable name; use at most 80 letters, digits, '.', '_' or '-', "
            "beginning with a letter or a digit",
            field,
        )
    if name.lower() in RESERVED:
        raise UserError(f"{field}: {name!r} is taken by a page of the program; choose another", field)
    return name


def typed_path(text: str, field: str) -> Path:
    """Return the path that a person typed, with `~` resolved; it need not exist.

    Raises UserError (field `field`) for text that cannot name a file (too long, or with characters that no file system
    allows).
    """
    try:
        path = Path(text).expanduser()
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, RuntimeError, ValueError):
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        raise UserError(f"{field}: {shown!r} cannot be the name of a file", field) from None
    return path


def new_id(kind: str) -> str:
    """Return a new identifier that sorts by time, e.g. `train-20261121-044501-3f9a07c2`."""
    return f"{kind}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Workspace:
    """The folders under one root.  Each folder is created by the code that first writes to it."""

    root: Path

    @classmethod
    def from_environment(cls) -> Workspace:
        """Return the workspace named by `SAESCOPE_HOME`, or `./data`."""
        return cls(Path(os.environ.get("SAESCOPE_HOME", "data")).resolve())

    @property
    def database(self) -> Path:
        return self.root / "app.db"

    def corpus(self, corpus_id: str) -> Path:
        return self.root / "corpora" / check_name(corpus_id, "corpus")

    def activations(self, name: str) -> Path:
        return self.root / "activations" / check_name(name, "activations")

    def run(self, run_id: str) -> Path:
        return self.root / "runs" / check_name(run_id, "run")

    def sae(self, sae_id: str) -> Path:
        return self.root / "saes" / self._sae_path(sae_id)

    def builds(self, sae_id: str) -> Path:
        return self.root / "builds" / self._sae_path(sae_id)

    def build(self, sae_id: str, build_id: str) -> Path:
        return self.builds(sae_id) / f"{check_name(build_id, 'build')}.duckdb"

    def sae_ids(self) -> list[str]:
        """Return the ids of all finished SAEs here, sorted."""
        return sorted(
            f"{p.parent.parent.name}/{p.parent.name}" for p in self.root.glob("saes/*/*/sae.json")
        )

    def build_ids(self, sae_id: str) -> list[str]:
        """Return the ids of an SAE's finished builds, newest last (ids sort by time)."""
        return sorted(p.stem for p in self.builds(sae_id).glob("*.duckdb"))

    @staticmethod
    def _sae_path(sae_id: str) -> Path:
        model, _, name = sae_id.partition("/")
        return Path(check_name(model, "model")) / check_name(name, "sae")
