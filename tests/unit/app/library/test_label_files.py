"""Tests of labels written to a file and read back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.db.engine import SessionFactory
from app.db.tables import Sae
from app.library import label_files, labels
from sae.errors import UserError

SAE = Sae(id="demo/one", model="demo", name="one", n_latents=50)
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(rows=st.dictionaries(st.integers(0, 49), st.tuples(words, words, words, st.booleans()), max_size=6))
def test_out_and_in_again(sessions: SessionFactory, rows: dict[int, tuple[str, str, str, bool]]) -> None:
    with sessions() as db:
        for row in labels.everything(db, SAE.id):
            db.delete(row)
        db.commit()
        for latent, (text, note, tags, star) in rows.items():
            labels.save(db, SAE.id, latent, "ada", text=text, note=note, tags=tags, star=star)
        before = _values(labels.everything(db, SAE.id))
        files = [label_files.as_json(SAE.id, labels.everything(db, SAE.id)),
                 label_files.as_csv(labels.everything(db, SAE.id))]
        for file in files:
            for row in labels.everything(db, SAE.id):
                db.delete(row)
            db.commit()
            assert label_files.store(db, SAE, label_files.read(file.encode(), SAE), "eve") == len(rows)
            assert _values(labels.everything(db, SAE.id)) == before


def _values(rows: list[Any]) -> list[tuple[Any, ...]]:
    return [(row.latent, row.text, row.note.replace("\r\n", "\n").replace("\r", "\n"), row.tags, row.starred)
            for row in rows]


def test_values_that_a_file_does_not_give_stay(sessions: SessionFactory) -> None:
    with sessions() as db:
        labels.save(db, SAE.id, 3, "ada", text="kept", note="kept too", tags="b, a ,b", star=True)
        label_files.store(db, SAE, label_files.read(b"latent,note\n3,new\n", SAE), "eve")
        row = labels.get(db, SAE.id, 3)
        assert row is not None
        assert (row.text, row.note, row.tags, row.starred, row.author) == ("kept", "new", "a, b", True, "eve")
        assert labels.tagged(db, SAE.id) == {"a": frozenset({3}), "b": frozenset({3})}


def test_cells_are_no_formulas(sessions: SessionFactory) -> None:
    with sessions() as db:
        labels.save(db, SAE.id, 3, "ada", text="=1+1")
        file = label_files.as_csv(labels.everything(db, SAE.id))
        assert "'=1+1" in file
        assert label_files.read(file.encode(), SAE)[0]["text"] == "=1+1"


@pytest.mark.parametrize(("content", "message"), [
    (b"\xff\xfe", "UTF-8"), (b"{", "not JSON"), (b'{"labels": 3}', "no list"), (b"a,b\n1,2\n", "no column"),
    (b'[{"latent": 50}]', "0 to 49"), (b'[{"latent": "x"}]', "label 1"), (b"[3]", "label 1"),
    (b'[{"latent": 1, "text": 5}]', "text must be"), (b'[{"latent": 1, "note": "' + b"x" * 10_001 + b'"}]', "note"),
    (b'[{"latent": 1, "text": "fine"}, {"latent": -1}]', "label 2")])
def test_a_bad_file_stores_nothing(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        label_files.read(content, SAE)
    assert error.value.field == "file"
