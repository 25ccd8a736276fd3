"""Tests of labels: values that are not given stay, and two users may write at the same time."""

from __future__ import annotations

import pytest

from app.db.engine import SessionFactory
from app.library import labels
from sae.errors import UserError

SAE = "demo/one"


def test_what_is_not_given_stays_as_it_was(sessions: SessionFactory) -> None:
    with sessions() as db:
        labels.save(db, SAE, 3, "ada", text="  inside\n a  docstring ", note=" seen twice\n")
        row = labels.get(db, SAE, 3)
        assert row is not None
        assert (row.text, row.note, row.author) == ("inside a docstring", "seen twice", "ada")
        labels.save(db, SAE, 3, "eve", text="")
        assert (row.text, row.note) == ("", "seen twice")


def test_two_first_labels_at_once(sessions: SessionFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    found, late = labels.get, True

    def get(*key: object) -> object:  # the other user's label comes between our read and our write
        nonlocal late
        row = found(*key)  # type: ignore[arg-type]
        if late:
            late = False
            with sessions() as other:
                labels.save(other, SAE, 3, "ada", text="hers", note="hers")
        return row

    monkeypatch.setattr(labels, "get", get)
    with sessions() as db:
        row = labels.save(db, SAE, 3, "eve", text="ours")
        assert (row.text, row.note, row.author) == ("ours", "hers", "eve")


def test_two_changes_at_once(sessions: SessionFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    found, late = labels.get, True
    with sessions() as db:
        labels.save(db, SAE, 3, "ada", text="first")

    def get(*key: object) -> object:  # the other user's change comes between our read and our write
        nonlocal late
        row = found(*key)  # type: ignore[arg-type]
        if late:
            late = False
            with sessions() as other:
                labels.save(other, SAE, 3, "ada", note="hers")
        return row

    monkeypatch.setattr(labels, "get", get)
    with sessions() as db:
        with pytest.raises(labels.LabelConflict) as conflict:
            labels.save(db, SAE, 3, "eve", text="ours", note="", seen=1)
        assert conflict.value.theirs.note == "hers"
        db.rollback()
        late = True
        labels.save(db, SAE, 3, "eve", text="ours")  # names no version: what it does not give stays
        row = labels.get(db, SAE, 3)
        assert row is not None
        assert (row.text, row.note, row.author) == ("ours", "hers", "eve")


def test_a_change_of_what_was_not_seen_is_a_conflict(sessions: SessionFactory) -> None:
    with sessions() as db:
        assert labels.save(db, SAE, 3, "ada", text="a", note="", tags="", seen=0).version == 1
        labels.save(db, SAE, 3, "eve", text="b", note="n", tags="", seen=1)
        with pytest.raises(labels.LabelConflict) as conflict:
            labels.save(db, SAE, 3, "ada", text="a", note="", tags="t", seen=1)
        assert (conflict.value.theirs.text, conflict.value.theirs.author) == ("b", "eve")
        db.rollback()
        row = labels.get(db, SAE, 3)
        assert row is not None
        assert (row.text, row.note, row.tags, row.version) == ("b", "n", "", 2)
        labels.save(db, SAE, 3, "ada", text=" b", note="n", seen=1)  # both mean the same
        labels.save(db, SAE, 3, "ada", text="a", note="", tags="t", seen=2)  # she saw it, and insists


def test_earlier_labels_are_kept_with_author_and_time(sessions: SessionFactory) -> None:
    with sessions() as db:
        first = labels.save(db, SAE, 3, "ada", text="a", note="n", tags="t").updated
        labels.save(db, SAE, 3, "eve", text="a", note="n")  # nothing new
        labels.save(db, SAE, 3, "eve", text="b")
        labels.save(db, SAE, 3, "ada", text="", note="", tags="")
        labels.save(db, SAE, 3, "ada", text="c")  # nothing was there before
        labels.save(db, SAE, 4, "ada", text="another latent")
        assert [(row.text, row.note, row.tags, row.author) for row in labels.earlier(db, SAE, 3)] == [
            ("b", "n", "t", "eve"), ("a", "n", "t", "ada")]
        assert labels.earlier(db, SAE, 3)[1].updated == first


@pytest.mark.parametrize(("text", "found"), [("DOC", [3]), ("%", [4]), ("_", []), ("\\", [5]), ("twice", [3])])
def test_a_search_takes_every_character_for_itself(sessions: SessionFactory, text: str, found: list[int]) -> None:
    with sessions() as db:
        labels.save(db, SAE, 3, "ada", text="docstring", note="seen twice")
        labels.save(db, SAE, 4, "ada", text="100 %")
        labels.save(db, SAE, 5, "ada", text="a \\ b")
        labels.save(db, "demo/two", 3, "ada", text="docstring % \\")
        assert [row.latent for row in labels.search(db, text, [SAE])] == found


def test_a_label_too_long_is_refused(sessions: SessionFactory) -> None:
    with sessions() as db, pytest.raises(UserError) as refused:
        labels.save(db, SAE, 3, "ada", text="x" * (labels.MAX_TEXT + 1))
    assert refused.value.field == "text"
