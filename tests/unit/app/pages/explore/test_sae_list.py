"""Tests of the table of SAEs: its order, its columns, and the SAE to begin with."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

from app.pages.explore.sae_list import COLUMNS, SaeTable, best, in_order
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH, TOP, write_sae
from tests.unit.app.pages.explore.records import sae
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
    assert order("?filter=SWEEP+demo&sort=l0") == ["sweep-0", "sweep-1", "sweep-2"]
    assert order("?filter=resid_post+nothing") == []
    assert "No SAE contains all of these words." in page(browsable, "/?filter=nothing")
    html = page(browsable, "/?group=architecture&filter=res")
    assert re.findall(r'scope="rowgroup" colspan="\d+">([^<]+) <span class="muted">(\d+)', html) == [
        ("BatchTopK", "4"), ("TopK", "1")]
    assert '?sort=l0&amp;dir=asc&amp;filter=res&amp;group=architecture' in html
    assert order("?group=nonsense") == order("")


# ---- without a page


ONE, TWO = sae("one", metrics={"fvu": 0.25, "l0": 9.0}), sae("Two", metrics={"fvu": 0.125}, architecture="topk")
NONE = sae("none", build=None)


def test_unknown_values_are_last_either_way() -> None:
    assert in_order([NONE, ONE, TWO], "fvu") == [TWO, ONE, NONE]
    assert in_order([NONE, ONE, TWO], "fvu", True) == [ONE, TWO, NONE]
    assert in_order([TWO, ONE], "sae") == [ONE, TWO], "in any case"


@pytest.mark.parametrize(("query", "sort", "descending"), [
    ({}, "fvu", False), ({"sort": "nonsense"}, "fvu", False), ({"sort": "n_latents"}, "n_latents", True),
    ({"sort": "fvu", "dir": "desc"}, "fvu", True), ({"sort": "n_latents", "dir": "asc"}, "n_latents", False)])
def test_a_column_begins_with_its_best(query: dict[str, str], sort: str, descending: bool) -> None:
    table = SaeTable.read([ONE, TWO], query)
    assert (table.sort, table.descending) == (sort, descending)
    column = next(column for column in COLUMNS if column.key == sort)
    assert table.href(column) == f"?sort={sort}&dir={'asc' if descending else 'desc'}", "a second click turns it round"


def test_the_best_has_an_index_weights_and_the_lowest_fvu() -> None:
    board = sae("board", weights="none")
    assert best([NONE, board, ONE, TWO]) is TWO
    assert best([NONE, board]) is board
    assert best([NONE]) is None


def test_a_row_leaves_out_the_name() -> None:
    values = {column.key: value for column, value in SaeTable.read([ONE], {}).cells(ONE)}
    assert (values["fvu"], values["l0"], values["dead"], values["k"]) == (0.25, 9.0, None, 32)
    assert not {"sae", "indexed"} & set(values)
