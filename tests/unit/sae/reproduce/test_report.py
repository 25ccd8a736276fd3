"""Tests of the page and the JSON of a report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sae.reproduce import batchtopk, report, topk_scaling
from sae.reproduce.paper import Paper
from tests.unit.sae.reproduce.rows import SETUP, rows_of


@pytest.mark.parametrize("paper", [batchtopk.PAPER, topk_scaling.PAPER], ids=lambda paper: paper.name)
def test_the_report_is_one_page_without_links_and_the_same_as_json(paper: Paper, tmp_path: Path) -> None:
    rows = rows_of(paper, lambda cell, seed: cell.k**-0.5 * (1 + 0.01 * seed) * 256 / cell.n_latents)
    rows[0] = {"cell": rows[0]["cell"], "kind": "<topk>", "seed": 0, "error": "lr: <failed>"}
    page, data = report.write(paper, SETUP, paper.cells(SETUP), rows, "saescope reproduce x --k '<16>'", tmp_path)
    html = page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=|@import|url\(", html)
    assert "lr: &lt;failed&gt;" in html
    assert "--k '&lt;16&gt;'".replace("'", "&#x27;") in html
    body = html[html.index("<body>") : html.index("</html>")]
    ElementTree.fromstring(body)  # well formed
    record = json.loads(data.read_text(encoding="utf-8"))
    assert html.count("<tr><td>", html.index("claims"), html.index("<h2>Figures")) == len(record["claims"])
    assert html.count("<figure>") == len(record["figures"])
    assert len(record["rows"]) == len(rows) - 1
    for cell in paper.cells(SETUP):
        assert cell.label in html
