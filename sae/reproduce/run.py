"""The command `saescope reproduce`: train and measure a paper's grid, then write the report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import Timeout

from sae.errors import UserError
from sae.reproduce import batchtopk, report, topk_scaling
from sae.reproduce.paper import Paper
from sae.reproduce.setup import Setup, checked
from sae.reproduce.train import measured
from sae.workspace.files import lock
from sae.workspace.paths import Workspace

PAPERS: dict[str, Paper] = {paper.name: paper for paper in (batchtopk.PAPER, topk_scaling.PAPER)}
_SAID_S = 5.0  # least seconds between two lines of progress of one phase


def reproduce(
    name: str, values: dict[str, Any], workspace: Workspace, folder: Path, say: Callable[[str], None], command: str,
    *, quick: bool = False,
) -> tuple[Path, Path]:
    """Make a paper's report, from where an earlier call with these settings stopped; return page and JSON.

    `values` are settings of `Setup` that differ from the paper's defaults.  Raises UserError (field `paper`, `out` or
    the setting at fault).
    """
    if name not in PAPERS:
        raise UserError(f"paper: {name!r} is not one of {', '.join(PAPERS)}", "paper")
    paper = PAPERS[name]
    setup = checked(Setup, {**paper.defaults, **(paper.quick if quick else {}), **values})
    cells = paper.cells(setup)
    for cell in cells:
        setup.spec(cell, 0)  # refuses contradictions before anything is loaded
    say(f"{len(cells)} SAEs with {setup.seeds} seeds each; finished seeds are kept in {folder}")
    try:
        with lock(folder / "lock").acquire(timeout=0):
            rows = measured(setup, cells, folder, workspace, _lines(say))
            return report.write(paper, setup, cells, rows, command, folder)
    except Timeout:
        raise UserError(f"out: another process works in {folder}", "out") from None


def _lines(say: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """Return a callback that says every phase, and its progress every few seconds."""
    last: dict[str, float] = {}

    def report_progress(phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - last.get(phase, -_SAID_S) >= _SAID_S:
            last[phase] = now
            say(f"{phase}: {done / total:.0%}" if total else phase)

    return report_progress
