"""Tests of the mirror of measures' files: what is added, replaced, removed and moved with its SAE."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from app.db.engine import SessionFactory
from app.db.tables import Evaluation
from app.jobs.sae_changes import delete_sae, rename_sae
from app.library.catalog import Catalog
from app.library.evaluation_mirror import EvaluationMirror
from sae.evaluation.results import StoredResult, StoredValue, result_path, write_result
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae

SAE = "demo/2-res-batchtopk-4k"


@pytest.fixture
def folder(workspace: Workspace, catalog: Catalog, engine: Engine) -> Path:
    write_sae(workspace)
    catalog.sync()
    return workspace.sae(SAE)


def values(sessions: SessionFactory) -> dict[tuple[str, str], float]:
    with sessions() as db:
        return {(row.measure, row.key): row.value for row in db.scalars(select(Evaluation))}


def test_the_rows_follow_the_files(folder: Path, catalog: Catalog, sessions: SessionFactory) -> None:
    write_result(folder, StoredResult("core", (
        StoredValue("fvu", 0.1, 0.05, 0.2, 2**40, definition="share"), StoredValue("none", None))))
    write_result(folder, StoredResult("probing", refused="no labels"))
    assert catalog.sync_if_changed()
    assert not catalog.sync_if_changed()
    with sessions() as db:
        (row,) = db.scalars(select(Evaluation))
        assert (row.sae_id, row.key, row.low, row.high, row.n) == (SAE, "fvu", 0.05, 0.2, 2.0**40)
    write_result(folder, StoredResult("core", (StoredValue("l0", 3.0),)))
    write_result(folder, StoredResult("n2g", (StoredValue("recall", 0.5),)))
    assert catalog.sync_if_changed()
    assert values(sessions) == {("core", "l0"): 3.0, ("n2g", "recall"): 0.5}


def test_files_that_went_away_while_the_server_was_off_are_noticed(
    folder: Path, workspace: Workspace, sessions: SessionFactory
) -> None:
    write_result(folder, StoredResult("core", (StoredValue("fvu", 0.1),)))
    EvaluationMirror(workspace, sessions).sync()
    result_path(folder, "core").unlink()
    assert EvaluationMirror(workspace, sessions).sync()
    assert values(sessions) == {}
    assert not EvaluationMirror(workspace, sessions).sync()


def test_rows_move_and_go_with_their_sae(
    folder: Path, workspace: Workspace, catalog: Catalog, sessions: SessionFactory
) -> None:
    write_result(folder, StoredResult("core", (StoredValue("fvu", 0.1),)))
    catalog.sync_if_changed()
    with sessions() as db:
        new = rename_sae(db, workspace, SAE, "other")
        assert set(db.scalars(select(Evaluation.sae_id))) == {new}
        delete_sae(db, workspace, new)
        assert list(db.scalars(select(Evaluation))) == []
