"""Tests of deleting and renaming an SAE: what belongs to it, what stays, and which runs are in the way."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from app.access import accounts
from app.db.engine import SessionFactory
from app.db.people_tables import Comment, ListMember, Star
from app.db.tables import EarlierLabel, Inspection, Label, LatentEffect, Run, SteerRun
from app.jobs import queue
from app.jobs.sae_changes import belongings, busy_runs, delete_sae, rename_sae
from app.library import labels, lists, stars
from sae.errors import UserError
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae

ONE, TWO = "demo/one", "demo/two"


@pytest.fixture
def two(workspace: Workspace, sessions: SessionFactory) -> SessionFactory:
    """Two SAEs, with a label that was changed and a measured effect of each."""
    for sae_id in (ONE, TWO):
        write_sae(workspace, sae_id)
        path = workspace.build(sae_id, "index-1")
        path.parent.mkdir(parents=True)
        path.touch()
        with sessions() as db:
            labels.save(db, sae_id, 3, "ada", text="first")
            labels.save(db, sae_id, 3, "ada", text="second")
            db.add(LatentEffect(sae_id=sae_id, build_id="index-1", latent=3, score=0.5))
            db.add(Comment(sae_id=sae_id, latent=3, text="seen", author="ada"))
            one = lists.create(db, "ada", f"of {sae_id}")
            lists.put(db, one, sae_id, 3, "ada")
            stars.put(db, accounts.set_password(db, f"user of {sae_id}", "correct horse"), sae_id, 3, on=True)
            db.commit()
    return sessions


def rows_of(sessions: SessionFactory, sae_id: str) -> list[int]:
    with sessions() as db:
        return [db.scalar(select(func.count()).select_from(table).where(table.sae_id == sae_id)) or 0
                for table in (Label, EarlierLabel, LatentEffect, Comment, ListMember, Star)]


def test_what_belongs_to_an_sae_is_counted(two: SessionFactory, workspace: Workspace) -> None:
    with two() as db:
        labels.save(db, ONE, 4, "ada", note="x")
        found = belongings(db, workspace, ONE)
        assert (found.labels, found.effects, found.runs) == (2, 1, [])
        with pytest.raises(UserError, match="demo/none") as caught:
            belongings(db, workspace, "demo/none")
        assert caught.value.field == "sae"


def test_deleting_takes_files_and_rows_of_this_sae_alone(two: SessionFactory, workspace: Workspace) -> None:
    with two() as db:
        db.add(SteerRun(id="steer-1", sae_id=ONE, request={}, state="succeeded"))
        db.commit()
        delete_sae(db, workspace, ONE)
        assert db.get(SteerRun, "steer-1") is not None, "a record of a past result"
    assert (rows_of(two, ONE), rows_of(two, TWO)) == ([0] * 6, [1] * 6)
    assert (workspace.sae(ONE).exists(), workspace.build(ONE, "index-1").exists()) == (False, False)
    assert workspace.sae(TWO).is_dir()


def test_renaming_moves_rows_and_every_mention(two: SessionFactory, workspace: Workspace) -> None:
    with two() as db:
        labels.save(db, "demo/best", 9, "ada", text="of an SAE that had this name before")
        spec = {"sae": ONE, "text": f"about {ONE}"}
        db.add(Run(id="index-1", kind="index", spec=spec, state="succeeded", sae_id=ONE))
        db.add(SteerRun(id="steer-1", sae_id=ONE, request={"saes": {ONE: {"id": ONE}, TWO: {}}}, state="succeeded"))
        db.add(Inspection(id="i", request={"saes": [TWO, ONE], "texts": ["x"]}))
        db.commit()
        assert rename_sae(db, workspace, ONE, "best") == "demo/best"
    with two() as db:
        run = db.get_one(Run, "index-1")
        assert (run.sae_id, run.spec) == ("demo/best", {"sae": "demo/best", "text": f"about {ONE}"})
        assert db.get_one(SteerRun, "steer-1").request == {"saes": {"demo/best": {"id": "demo/best"}, TWO: {}}}
        assert db.get_one(Inspection, "i").request["saes"] == [TWO, "demo/best"]
        assert labels.texts(db, "demo/best") == {3: "second"}
    assert (rows_of(two, ONE), rows_of(two, "demo/best")) == ([0] * 6, [1] * 6)


@pytest.mark.parametrize("name", ["two", "a/b", ""])
def test_a_name_that_is_taken_or_not_usable_changes_nothing(
    two: SessionFactory, workspace: Workspace, name: str
) -> None:
    with two() as db, pytest.raises(UserError) as caught:
        rename_sae(db, workspace, ONE, name)
    assert caught.value.field == "name"
    assert rows_of(two, ONE) == rows_of(two, TWO) == [1] * 6


def test_runs_that_make_or_read_it_are_in_the_way(two: SessionFactory, workspace: Workspace) -> None:
    with two() as db:
        reads = queue.enqueue(db, workspace, "index", {"sae": ONE})
        compares = queue.enqueue(db, workspace, "compare", {"a": TWO, "b": ONE})
        makes = queue.enqueue(db, workspace, "sweep", {"name": "grid"})
        other = queue.enqueue(db, workspace, "index", {"sae": TWO})
        (workspace.run(makes.id) / "sae_id.txt").write_text(f"demo/else\n{ONE}\n")
        busy = {run.id for run in busy_runs(db, workspace, ONE)}
        assert busy == {reads.id, compares.id, makes.id}
        assert {run.id for run in busy_runs(db, workspace, TWO)} == {compares.id, other.id}
        for change in (lambda: delete_sae(db, workspace, ONE), lambda: rename_sae(db, workspace, ONE, "best")):
            with pytest.raises(UserError, match="is working with demo/one"):
                change()
        for run_id in busy:
            queue.cancel(db, workspace, run_id)
        assert busy_runs(db, workspace, ONE) == []
        delete_sae(db, workspace, ONE)
    assert not workspace.sae(ONE).exists()
