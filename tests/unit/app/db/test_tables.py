"""Tests of the tables: names of constraints, defaults, an SAE's facts, and what is deleted with what."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.exc import StaleDataError

from app.db.engine import SessionFactory
from app.db.tables import Base, Label, LatentEffect, LoginSession, Run, Sae, User


def test_every_constraint_has_a_name_that_migrations_can_use() -> None:
    names = [constraint.name for table in Base.metadata.tables.values() for constraint in table.constraints]
    assert None not in names
    assert len(set(names)) == len(names)
    indexes = [index.name for table in Base.metadata.tables.values() for index in table.indexes]
    assert "ix_runs_state_created" in indexes
    assert "ix_sessions_user_id" in indexes


def test_an_sae_knows_what_its_file_and_its_note_say() -> None:
    plain = Sae(config={})
    assert (plain.weightless, plain.note, plain.hidden) == (False, "", False)
    told = Sae(config={"weights": "none", "notes": {"note": "the good one", "hidden": True}})
    assert (told.weightless, told.note, told.hidden) == (True, "the good one", True)
    assert not Sae(config={"weights": "sae.safetensors"}).weightless


def test_a_new_run_waits_and_has_done_nothing(sessions: SessionFactory) -> None:
    with sessions() as db:
        db.add(Run(id="train-1", kind="train", spec={"k": 3}))
        db.commit()
        run = db.get_one(Run, "train-1")
        assert (run.state, run.progress, run.requeues, run.requested_by) == ("queued", 0.0, 0, "")
        assert run.started is None
        assert run.spec == {"k": 3}
        assert run.created > 1e9


def test_a_form_starts_one_run_but_runs_without_a_form_are_many(sessions: SessionFactory) -> None:
    with sessions() as db:
        db.add_all([Run(id="a", kind="train", spec={}), Run(id="b", kind="train", spec={})])
        db.add(Run(id="c", kind="train", spec={}, form_key="k"))
        db.commit()
        db.add(Run(id="d", kind="train", spec={}, form_key="k"))
        with pytest.raises(IntegrityError):
            db.commit()


def test_a_users_sessions_go_with_the_user(sessions: SessionFactory) -> None:
    with sessions() as db:
        user = User(name="ada")
        db.add(user)
        db.flush()
        db.add(LoginSession(id="x" * 64, user_id=user.id, expires=9e9))
        db.commit()
        assert db.get_one(LoginSession, "x" * 64).user.name == "ada"
        db.delete(user)
        db.commit()
        assert db.get(LoginSession, "x" * 64, populate_existing=True) is None


def test_of_two_writers_of_a_label_the_later_one_is_refused(sessions: SessionFactory) -> None:
    with sessions() as db:
        db.add(Label(sae_id="demo/x", latent=3, text="first", version=1))
        db.commit()
    with sessions() as mine, sessions() as theirs:
        row, other = (db.get_one(Label, ("demo/x", 3)) for db in (mine, theirs))
        assert (row.text, other.text) == ("first", "first")
        other.text, other.version = "theirs", 2
        theirs.commit()
        row.text, row.version = "mine", 2
        with pytest.raises(StaleDataError):
            mine.commit()


def test_an_absent_measurement_is_null_and_not_json(sessions: SessionFactory) -> None:
    with sessions() as db:
        db.add(LatentEffect(sae_id="demo/x", build_id="b", latent=1, ablation=None))
        db.commit()
        assert db.query(LatentEffect).filter(LatentEffect.ablation.is_(None)).count() == 1
