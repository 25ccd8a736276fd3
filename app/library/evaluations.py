"""The results of measures, as the pages read them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Evaluation
from sae.evaluation.registry import ENTRIES
from sae.evaluation.results import FOLDER, StoredResult, read_result

PER_LATENT = "latents"  # columns with a number for each latent, which no page shows as a whole


def results_of(folder: Path) -> list[StoredResult]:
    """Return the results of an SAE in the order of the measures, without their numbers for each latent."""
    found = [_read(path, *_mark(path)) for path in sorted((folder / FOLDER).glob("*.json"))]
    names = list(ENTRIES)
    return sorted((result for result in found if result is not None), key=lambda result: (
        names.index(result.measure) if result.measure in names else len(names), result.measure))


def _mark(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:  # it has just gone away
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=64)
def _read(path: Path, changed: int, size: int) -> StoredResult | None:
    result = read_result(path.parent.parent, path.stem)
    return result and replace(result, detail={
        key: value for key, value in result.detail.items() if key != PER_LATENT or not isinstance(value, dict)})


def values_of(db: Session, sae_ids: Collection[str]) -> dict[str, dict[str, Evaluation]]:
    """Return the rows of SAEs by id and key; of a key that several measures have, the core one or the newest."""
    found: dict[str, dict[str, Evaluation]] = {sae_id: {} for sae_id in sae_ids}
    rows = db.scalars(select(Evaluation).where(Evaluation.sae_id.in_(list(sae_ids))))
    for row in sorted(rows, key=lambda row: (row.measure == "core", row.created)):
        found[row.sae_id][row.key] = row
    return found
