"""Tests of a model's page: its table, filters, order, plots, and what it says of overlapping intervals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.pages.explore.measured_saes import Measured, MeasuredSae
from app.pages.explore.model_page import ModelQuery, model_page
from sae.evaluation.published import PublishedResult, write_published
from sae.evaluation.results import StoredResult, StoredValue, write_result
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH, TOP, write_sae
from tests.unit.app.pages.html import json_of, page

HOOK = "blocks.2.hook_resid_post"


def row(name: str, architecture: str = "TopK", site: str = HOOK, **values: Measured) -> MeasuredSae:
    return MeasuredSae(name, f"/demo/{name}", site, architecture, 64, 4, 1000, values, group=name)


def around(value: float, width: float = 0.0) -> Measured:
    return Measured(value, value - width, value + width)


ROWS = [
    row("b", fvu=around(0.25, 0.01), l0=around(8), special=around(3)),
    row("a", "BatchTopK", fvu=around(0.255, 0.01), l0=around(9)),
    row("c", fvu=around(0.5, 0.01), l0=around(2), delta_ce=around(0.1)), row("none")]


def order(view_rows: list[MeasuredSae], query: str) -> list[str]:
    params = dict(part.split("=") for part in query.split("&") if part)
    return [line.row.name for line in model_page(view_rows, ModelQuery.read(params)).lines]


@pytest.mark.parametrize(("query", "names"), [
    ("", "b a c none"), ("sort=fvu&dir=desc", "c a b none"), ("sort=sae", "a b c none"),
    ("sort=architecture", "a b c none"), ("group=architecture", "a b c none"),
    ("group=architecture&sort=l0&dir=desc", "a b c none"), ("architecture=TopK", "b c none"), ("find=NO", "none"),
    ("sort=nonsense", "b a c none"), ("site=nowhere", "")])
def test_sorting_and_filters(query: str, names: str) -> None:
    assert order(ROWS, query) == names.split()


def test_the_order_of_overlapping_intervals_is_marked_as_meaningless() -> None:
    lines = model_page(ROWS, ModelQuery()).lines
    keys = [column.key for column in model_page(ROWS, ModelQuery()).columns[1:]]
    assert [line.cells[keys.index("fvu")].close for line in lines] == [False, True, False, False]
    assert not any(line.cells[keys.index("l0")].close for line in lines), "only the column that sorts"
    assert lines[0].cells[keys.index("fvu")].interval == "0.2400 to 0.2600"
    grouped = model_page(ROWS, ModelQuery(grouped=True)).lines
    assert [line.head for line in grouped] == ["BatchTopK", "TopK", "", ""]
    assert not any(cell.close for line in grouped for cell in line.cells), "rows of different groups are not compared"


def test_a_chosen_measure_has_a_column_and_a_plot() -> None:
    plain, chosen = model_page(ROWS, ModelQuery()), model_page(ROWS, ModelQuery(x="special", y="fvu"))
    assert [column.key for column in chosen.columns][-1] == "special"
    assert "special" not in [column.key for column in plain.columns]
    assert [re.findall("<figcaption>([^<]+) ?<", plot)[0].strip() for plot in plain.plots] == [
        "FVU against L0", "ΔCE against L0"]
    assert [plot.count("c-dot c-t") for plot in chosen.plots] == [1 + 1], "one point, and the legend's"


def test_sites_are_never_plotted_together() -> None:
    rows = [*ROWS, row("d", site="other", fvu=around(0.1), l0=around(1))]
    assert model_page(rows, ModelQuery()).plots == []
    assert model_page(rows, ModelQuery()).several_sites
    assert len(model_page(rows, ModelQuery(site=HOOK)).plots) == 2
    assert [column.key for column in model_page(rows, ModelQuery()).columns][1] == "site"
    assert "site" not in [column.key for column in model_page(rows, ModelQuery(site=HOOK)).columns]


def test_the_address_holds_the_state() -> None:
    query = ModelQuery.read({"site": "a b", "x": "l0", "sort": "fvu", "dir": "desc", "group": "architecture", "z": "1"})
    assert query.href() == "?site=a+b&x=l0&sort=fvu&dir=desc&group=architecture"
    assert query.href(sort="", grouped=False, x="") == "?site=a+b"


# ---- with a page


@pytest.fixture
def measured(browsable: TestClient, workspace: Workspace) -> Path:
    """Give one of the two SAEs a result, and the model a published one."""
    folder = workspace.sae(BATCH)
    write_result(folder, StoredResult("core", (
        StoredValue("fvu", 0.19, 0.18, 0.2, definition="share of variance"), StoredValue("cossim", 0.9, 0.89, 0.91))))
    write_published(workspace, PublishedResult(
        "demo", "release/<b>", "core", "SAEBench", HOOK, "jumprelu", 64, values={"l0": 20.0, "cossim": 0.5}))
    browsable.app.state.catalog.sync()  # type: ignore[attr-defined]
    return folder


def test_the_page_shows_intervals_and_published_results(measured: Path, browsable: TestClient) -> None:
    html = page(browsable, "/demo")
    assert "0.1800 to 0.2000" in html
    assert "published: SAEBench" in html
    assert "release/&lt;b&gt;" in html
    assert "Pareto front" in html
    chosen = page(browsable, "/demo?x=l0&y=cossim&group=architecture")
    assert "Cosine of x and x̂ against L0" in chosen
    assert '<th scope="rowgroup"' in chosen
    assert page(browsable, "/demo?sort=zz&site=%00&x=%ff&dir=&find=" + "x" * 500)
    answer = json_of(browsable, "/demo.json")
    assert answer["published"][0]["values"]["l0"] == 20.0
    values = {one["sae"]: one["values"] for one in answer["saes"]}
    assert values[BATCH.removeprefix("demo/")]["fvu"] == {"value": 0.19, "low": 0.18, "high": 0.2}
    assert values[TOP.removeprefix("demo/")]["fvu"] == {"value": 0.1842, "low": None, "high": None}


def test_a_model_of_which_only_results_were_published(client: TestClient, workspace: Workspace) -> None:
    write_published(workspace, PublishedResult("gemma", "a/b", "core", "SAEBench", values={"l0": 20.0}))
    assert "a/b" in page(client, "/gemma")
    page(client, "/none", 404)


def test_the_file_of_saebench(measured: Path, browsable: TestClient, workspace: Workspace) -> None:
    answer = browsable.get(f"/{BATCH}/saebench.json")
    assert answer.status_code == 200
    assert json.loads(answer.text)["eval_result_metrics"]["reconstruction_quality"]["cossim"] == 0.9
    write_sae(workspace, "demo/other")
    browsable.app.state.catalog.sync()  # type: ignore[attr-defined]
    assert browsable.get("/demo/other/saebench.json").status_code == 404
    assert browsable.get(f"/{BATCH}/saebench.json?measure=n2g").status_code == 422
    assert browsable.get(f"/{BATCH}/saebench.json?measure=probing").status_code == 404
