"""Tests of the names of latents as text, and of the pages that show them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from fastapi.testclient import TestClient

from app.db.engine import SessionFactory
from app.library import labels
from app.library.latent_names import AllNames, names_of
from sae.explain import results
from sae.explain.records import Explanation, Score
from sae.store.build import Build
from sae.store.page_file import page_file_path
from sae.store.records import CLASSES
from sae.workspace.paths import Workspace
from tests.builds import Synthetic
from tests.unit.app.conftest import BATCH

MODEL = Explanation(3, "the keyword raise", "model", run="r")
FOUND = [MODEL, Score(3, "detection", 0.9, 25, MODEL.id, f1=0.9)]


def give_rules(path: Path) -> None:
    with duckdb.connect(str(path)) as con:  # the synthetic build has no rules
        con.execute("UPDATE latent SET rule_kind = 'class', rule_tokens = [], rule_class = 'number', rule_f1 ="
                    " CASE latent WHEN 5 THEN 0.4 ELSE 0.9 END, rule_precision = 0.5, rule_recall = 0.5"
                    ", map_x = latent, map_y = latent WHERE latent IN (3, 4, 5)")
    page_file_path(path).unlink(missing_ok=True)  # made of the build as it was


@pytest.fixture
def ruled(made: dict[str, Synthetic], tmp_path: Path) -> Iterator[Build]:
    path = tmp_path / made[BATCH].path.name
    shutil.copy(made[BATCH].path, path)
    give_rules(path)
    build = Build.open(path)
    yield build
    build.close()


def test_an_explanation_comes_before_a_rule_and_a_weak_rule_is_none(ruled: Build, sessions: SessionFactory) -> None:
    with sessions() as db:
        rule = names_of(db, ruled, BATCH, [4])[4]
        assert rule.startswith("fires ")
        labels.save(db, BATCH, 3, "ada", text="mine")
        assert names_of(db, ruled, BATCH, [3, 4, 5, 6]) == {3: "mine", 4: rule}
        everything = AllNames(db, ruled, BATCH)
        assert dict(everything) == {3: "mine", 4: rule}
        assert dict(everything.texts) == {3: "mine"}
        labels.save(db, BATCH, 3, "ada", text="")
        assert dict(AllNames(db, ruled, BATCH)) == {3: rule, 4: rule}


@pytest.fixture
def named(browsable: TestClient, workspace: Workspace, made: dict[str, Synthetic]) -> TestClient:
    give_rules(workspace.build(BATCH, made[BATCH].path.stem))
    results.append(workspace.sae(BATCH), FOUND)
    browsable.app.state.catalog.sync_if_changed()  # type: ignore[attr-defined]
    return browsable


def test_pages_show_names_and_not_bare_numbers(named: TestClient) -> None:
    chips = named.get("/steer", params={"sae": BATCH, "latent": ["3", "4"]}).text
    assert MODEL.text in chips
    assert f">fires {CLASSES['number']}<" in chips
    assert MODEL.text in named.get("/inspect/card", params={"sae": BATCH, "latent": 3}).text
    points = named.get(f"/{BATCH}/map").text
    assert f"<title>3 · {MODEL.text}" in points
    assert "<title>4 · fires " in points
    assert MODEL.text in named.get("/search", params={"q": "keyword", "sae": BATCH}).text
    found = named.get("/steer/latents", params={"add": "keyword", "add_sae": BATCH}, headers={
        "Accept": "application/json"}).json()
    assert [(one["latent"], one["label"]) for one in found] == [(3, MODEL.text)]
