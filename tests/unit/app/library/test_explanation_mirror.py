"""Tests of the mirror of explanations' files: what is added, replaced and measured again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select

from app.db.engine import SessionFactory
from app.db.tables import ExplanationScore, LatentExplanation
from app.library import explanations
from app.library.catalog import Catalog
from app.library.explanation_mirror import ExplanationMirror, mirror
from sae.explain import results
from sae.explain.records import Explanation, Score
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae

SAE = "demo/2-res-batchtopk-4k"


def made(text: str, latent: int = 3, kind: str = "model", **values: Any) -> Explanation:
    return Explanation(latent, text, kind, run="run", model=text, **values)


def scored(explanation: Explanation, scorer: str, f1: float) -> Score:
    return Score(explanation.latent, scorer, f1, 20, explanation.id, f1=f1)


@pytest.fixture
def folder(workspace: Workspace, catalog: Catalog, engine: Engine) -> Path:
    write_sae(workspace)
    catalog.sync()
    return workspace.sae(SAE)


def test_a_file_that_was_replaced_is_mirrored_anew(folder: Path, catalog: Catalog, sessions: SessionFactory) -> None:
    one = made("one")
    results.append(folder, [scored(one, "detection", 0.5), one, made("two"), made("three", 4)])
    catalog.sync()
    with sessions() as db:
        explanations.write(db, SAE, 3, "of a person", "ada")
        db.commit()
    results.results_path(folder).unlink()
    results.append(folder, [made("new")])
    assert catalog.sync_if_changed()
    with sessions() as db:
        assert {row.text for row in db.scalars(select(LatentExplanation))} == {"new", "of a person"}
        assert list(db.scalars(select(ExplanationScore))) == []


def test_a_score_that_is_measured_again_replaces_the_old_one(
    folder: Path, catalog: Catalog, sessions: SessionFactory
) -> None:
    one = made("one")
    results.append(folder, [one, scored(one, "detection", 0.5)])
    catalog.sync()
    with open(results.results_path(folder), "ab") as file:
        file.write(b'{"explanation": {"latent": 3, "text": "cut of')  # by a run that was killed
    catalog.sync_if_changed()
    results.append(folder, [scored(one, "detection", 0.75), one])
    catalog.sync_if_changed()
    with sessions() as db:
        assert [row.value for row in db.scalars(select(ExplanationScore))] == [0.75]
        assert [row.text for row in db.scalars(select(LatentExplanation))] == ["one"]


def test_only_what_was_added_is_read(
    folder: Path, workspace: Workspace, sessions: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = ExplanationMirror(workspace, sessions)
    assert not mirror.sync(), "there is no file"
    results.append(folder, [made("one")])
    assert mirror.sync()
    assert not mirror.sync()
    reads: list[int] = []
    read = results.read
    monkeypatch.setattr(results, "read", lambda path, offset: reads.append(offset) or read(path, offset))
    size = results.results_path(folder).stat().st_size
    results.append(folder, [made("two")])
    assert mirror.sync()
    assert reads == [size]


def test_long_and_broken_values_fit_the_columns(folder: Path, workspace: Workspace, sessions: SessionFactory) -> None:
    results.append(folder, [made("x\0y" * 2000, author="a" * 500)])
    with sessions() as db:
        mirror(db, workspace, SAE)
        [row] = db.scalars(select(LatentExplanation))
        assert (len(row.text), len(row.author), "\0" in row.text) == (2000, 100, False)


def test_a_choice_outlives_a_second_reading(folder: Path, workspace: Workspace, sessions: SessionFactory) -> None:
    one = made("one")
    results.append(folder, [one])
    with sessions() as db:
        mirror(db, workspace, SAE)
        explanations.choose(db, SAE, 3, one.id)
        db.commit()
        results.append(folder, [one])
        mirror(db, workspace, SAE)
        [row] = db.scalars(select(LatentExplanation))
        assert row.chosen


def test_many_records_take_a_few_statements(
    folder: Path, workspace: Workspace, catalog: Catalog, sessions: SessionFactory, engine: Engine,
) -> None:
    """New ones and ones that are known already are stored together, and a choice stays."""
    made_now = [made(f"text {i}", i) for i in range(300)]
    results.append(folder, made_now)
    catalog.sync()
    with sessions() as db:
        assert explanations.choose(db, SAE, 7, made_now[7].id)
        db.commit()
    again = [replace(one, text=f"{one.text} again") for one in made_now]
    results.append(folder, [*again, *(made(f"more {i}", i) for i in range(700))])
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    with sessions() as db:
        mirror(db, workspace, SAE)
        rows = list(db.scalars(select(LatentExplanation)))
    assert len(statements) < 10
    assert len(rows) == 1000
    assert sum(row.text.endswith(" again") for row in rows) == 300
    assert [row.id for row in rows if row.chosen] == [made_now[7].id]
