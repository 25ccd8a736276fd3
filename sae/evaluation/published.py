"""Published results of SAEs that are not in the workspace: `published/<model>/<name>.json`.  No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sae.workspace.files import write_json
from sae.workspace.paths import Workspace, slug

FOLDER = "published"


@dataclass(frozen=True)
class PublishedResult:
    """Numbers of one SAE from one file, under the keys of our measures."""

    model: str
    name: str
    kind: str  # the file's type of evaluation
    source: str  # the release, and the program that measured
    hook: str = ""
    architecture: str = ""
    n_latents: int | None = None
    k: int | None = None
    values: dict[str, float] = field(default_factory=dict)
    created: float = 0.0


def write_published(workspace: Workspace, result: PublishedResult) -> Path:
    """Write the file of a published result, in place of an earlier one of the same SAE and kind."""
    which = f"{result.name}-{result.kind}"
    digest = hashlib.sha256(which.encode()).hexdigest()[:8]  # two names can have one slug
    path = _folder(workspace, result.model) / f"{slug(which)}-{digest}.json"
    write_json(path, asdict(result))
    return path


def read_published(workspace: Workspace, model: str) -> list[PublishedResult]:
    """Return the published results of a language model's SAEs; a damaged file is left out."""
    return [result for _, result in _files(_folder(workspace, model))]


def read_all_published(workspace: Workspace) -> list[PublishedResult]:
    """Return the published results of all language models, sorted by model and SAE."""
    folders = sorted((workspace.root / FOLDER).glob("*/"))
    return sorted((result for folder in folders for _, result in _files(folder)),
                  key=lambda one: (one.model, one.name, one.kind))


def remove_published(workspace: Workspace, model: str, name: str) -> bool:
    """Delete the results of one published SAE; return whether there were any."""
    found = [path for path, result in _files(_folder(workspace, model)) if result.name == name]
    for path in found:
        path.unlink(missing_ok=True)
    return bool(found)


def _files(folder: Path) -> Iterator[tuple[Path, PublishedResult]]:
    for path in sorted(folder.glob("*.json")):
        try:
            yield path, _checked(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue


def _folder(workspace: Workspace, model: str) -> Path:
    return workspace.root / FOLDER / slug(model)


def _checked(content: Any) -> PublishedResult:
    result = PublishedResult(**content)
    numbers = [*result.values.values(), result.created, result.n_latents or 0, result.k or 0]
    texts = (result.model, result.name, result.kind, result.source, result.hook, result.architecture)
    if not all(isinstance(one, int | float) for one in numbers) or not all(isinstance(one, str) for one in texts):
        raise ValueError("this is no published result")
    return result
