"""Tests of the table of SAEs: its order, its columns, and the SAE to begin with."""

from __future__ import annotations

import re

from fastapi.testclient import TestClient

from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH, TOP, write_sae
from tests.unit.app.pages.html import page


def test_many_saes_are_a_table_with_the_best_first(browsable: TestClient, workspace: Workspace) -> None:
    for i, fvu in enumerate((0.5, 0.05, None)):
        metrics = {} if fvu is None else {"fvu": fvu, "l0": 10.0 * (i + 1)}
        write_sae(workspace, f"demo/sweep-{i}", metrics=metrics, training={"tokens": 200_000})
    browsable.app.state.catalog.sync()  # type: ignore[attr-defined]

    def order(query: str) -> list[str]:
        rows = page(browsable, f"/{query}").partition("<tbody>")[2]
        return re.findall(r'<tr data-row><td class="mono"><a href="/demo/([^"]+)"', rows)

    names = [BATCH.removeprefix("demo/"), TOP.removeprefix("demo/")]
    assert order("") == ["sweep-1", *names, "sweep-0", "sweep-2"]
    assert order("?sort=fvu&dir=desc") == ["sweep-0", *names, "sweep-1", "sweep-2"], "the unmeasured are last"
    assert order("?sort=l0")[:2] == ["sweep-0", *names[:1]]
    assert order("?sort=trained&dir=asc")[0] == "sweep-0"
    assert order("?sort=nonsense&dir=desc") == order("?sort=fvu&dir=desc")
    assert 'aria-sort="ascending"' in page(browsable, "/")
