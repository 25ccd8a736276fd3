"""Labels: what is not given stays, and two people may write at once."""

from __future__ import annotations

import pytest

from app.db.engine import SessionFactory
from app.library import labels
from sae.errors import UserError

SAE = "demo/one"


def test_what_is_not_given_stays_as_it_was(sessions: SessionFactory) -> None:
    with sessions() as db:
        labels.save(db, SAE, 3, "ada", text="  inside\n a  docstring ", note=" seen twice\n")
        labels.save(db, SAE, 3, "eve", star=True)
        row = labels.get(db, SAE, 3)
        assert row is not None
        assert (row.text, row.note, row.starred, row.author) == ("inside a docstring", "seen twice", True, "eve")
        labels.save(db, SAE, 3, "eve", text="", star=False)
        assert (row.text, row.note, labels.starred(db, SAE)) == ("", "seen twice", frozenset())


def test_two_first_labels_at_once(sessions: SessionFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    found, late = labels.get, True

    def get(*key: object) -> object:  # the other one's label comes between our look and our writing
        nonlocal late
        row = found(*key)  # type: ignore[arg-type]
        if late:
            late = False
            with sessions() as other:
                labels.save(other, SAE, 3, "ada", text="hers", star=True)
        return row

    monkeypatch.setattr(labels, "get", get)
    with sessions() as db:
        row = labels.save(db, SAE, 3, "eve", text="ours")
        assert (row.text, row.starred, row.author) == ("ours", True, "eve")


@pytest.mark.parametrize(("text", "found"), [("DOC", [3]), ("%", [4]), ("_", []), ("\\", [5]), ("twice", [3])])
def test_a_search_takes_every_character_for_itself(sessions: SessionFactory, text: str, found: list[int]) -> None:
    with sessions() as db:
        labels.save(db, SAE, 3, "ada", text="docstring", note="seen twice")
        labels.save(db, SAE, 4, "ada", text="100 %")
        labels.save(db, SAE, 5, "ada", text="a \\ b")
        labels.save(db, "demo/two", 3, "ada", text="docstring % \\")
        assert [row.latent for row in labels.search(db, text, SAE)] == found


def test_a_label_too_long_is_refused(sessions: SessionFactory) -> None:
    with sessions() as db, pytest.raises(UserError) as refused:
        labels.save(db, SAE, 3, "ada", text="x" * (labels.MAX_TEXT + 1))
    assert refused.value.field == "text"
