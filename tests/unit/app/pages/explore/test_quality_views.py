"""Tests of the quality of an SAE: how its measures are written and drawn, and what its page shows of them."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from app.library import evaluations
from app.pages.explore.quality_views import section, written
from sae.evaluation.results import Anchor, StoredResult, StoredValue, write_result
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.html import json_of, page

CURVES = {"own_k": 2, "curves": {"topk": [{"k": 1, "fvu": 0.5}, {"k": 2, "fvu": 0.25}]}}
CORE = StoredResult(
    "core", (StoredValue("fvu", 0.1311, 0.1288, 0.1335, 50_000, definition="share of the variance"),
             StoredValue("nmse", 0.02), StoredValue("ce_recovered_mean", None, note="the model is not hurt")),
    anchors=(Anchor("random dictionary", (StoredValue("fvu", 0.6),), "drawn at random"),), seeds=(0, 1), run="run-1",
    text="stdlib", tokens=5000, created=1.0, seconds=90.0, command="saescope evaluate", peak_bytes=900_000_000)


@pytest.mark.parametrize(("key", "value", "text"), [
    ("fvu", 0.13113, "0.1311"), ("l0", 32.146, "32.15"), ("l0", 321.46, "321.5"), ("x", 2.31149, "2.311"),
    ("alive_share", 0.99436, "99.4%"), ("ce_recovered_zero", 0.012345, "1.23%"), ("fvu", None, "–"),
    ("alive_share", None, "–"), ("tasks", 28.0, "28"), ("x", -0.00001, "−1.0e−5")])
def test_numbers_have_four_digits(key: str, value: float | None, text: str) -> None:
    assert written(key, value) == text


def test_a_section_has_the_main_rows_first() -> None:
    found = section(CORE, BATCH)
    assert [row.name for row in found.rows] == ["FVU", "CE recovered (mean)"]
    assert [row.name for row in found.more] == ["NMSE"]
    fvu = found.rows[0]
    assert (fvu.value, fvu.interval, fvu.n, fvu.anchors) == ("0.1311", "0.1288 to 0.1335", "50,000", ("0.6000",))
    assert found.rows[1].anchors == ("–",)
    facts = dict(found.facts)
    assert (facts["seeds"], facts["took"], facts["memory of the run"]) == ("0, 1", "1 min 30 s", "900 MB")
    assert "labels" not in facts


def test_a_measure_without_main_rows_shows_its_first_ones() -> None:
    many = section(StoredResult("own", tuple(StoredValue(f"key_{i}", 1.0) for i in range(20))), BATCH)
    assert (many.title, len(many.rows), len(many.more)) == ("own", 12, 8)
    assert section(StoredResult("own", (StoredValue("k_f1", 1.0),)), BATCH).rows[0].name == "K F1"


def test_the_page_shows_measures_with_anchors_and_definitions(browsable: TestClient, workspace: Workspace) -> None:
    assert "With intervals, and next to a random dictionary" in page(browsable, f"/{BATCH}")
    folder = workspace.sae(BATCH)
    write_result(folder, CORE)
    write_result(folder, StoredResult("recovery", (StoredValue("fvu_at_2k", 0.5),), CURVES))
    write_result(folder, StoredResult("absorption", refused="this model cannot spell: F1 <0.31>"))
    html = page(browsable, f"/{BATCH}")
    for said in ("0.1288 to 0.1335", "share of the variance", "drawn at random", "1 more numbers",
                 "Progressive recovery", "this model cannot spell: F1 &lt;0.31&gt;", f"/{BATCH}/saebench.json",
                 "/runs/run-1"):
        assert said in html
    assert "With intervals, and next to" not in html
    assert [one["measure"] for one in json_of(browsable, f"/{BATCH}.json")["measures"]] == [
        "core", "recovery", "absorption"]


def test_numbers_for_each_latent_are_not_kept(workspace: Workspace) -> None:
    folder = workspace.sae("demo/x")
    write_result(folder, StoredResult("core", detail={"latents": {"a": [1]}, "tokens": 3}))
    write_result(folder, StoredResult("zeta"))
    (folder / "evaluation" / "broken.json").write_text("{")
    found = evaluations.results_of(folder)
    assert [one.measure for one in found] == ["core", "zeta"]
    assert found[0].detail == {"tokens": 3}
