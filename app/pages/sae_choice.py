"""SAEs that something can be computed with, for the pages that let a reader choose one."""

from __future__ import annotations

import math

from app.db.tables import Sae
from app.library.catalog import Catalog


def computable_saes(catalog: Catalog) -> list[Sae]:
    """Return the SAEs that have weights and an index, the best first: not hidden, the lowest FVU, then the newest."""
    found = [sae for sae in catalog.list_saes() if sae.current_build and not sae.weightless]
    return sorted(found, key=lambda sae: (sae.hidden, _fvu(sae)))  # equals stay as listed


def _fvu(sae: Sae) -> float:
    fvu = (sae.config.get("metrics") or {}).get("fvu")
    return float(fvu) if isinstance(fvu, int | float) and math.isfinite(fvu) else math.inf
