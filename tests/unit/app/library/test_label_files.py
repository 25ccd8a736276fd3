"""Tests of labels written to a file and read back."""

from __future__ import annotations

import gzip
import json
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
        for latent, (text, note, tags, _) in rows.items():
            labels.save(db, SAE.id, latent, "ada", text=text, note=note, tags=tags)
        starred = {latent for latent, row in rows.items() if row[3]}
        before = _values(labels.everything(db, SAE.id))
        files = [label_files.as_json(SAE.id, labels.everything(db, SAE.id), starred),
                 label_files.as_csv(labels.everything(db, SAE.id), starred)]
        for file in files:
            for row in labels.everything(db, SAE.id):
                db.delete(row)
            db.commit()
            again: dict[int, bool] = {}

            def star(latent: int, on: bool, again: dict[int, bool] = again) -> None:
                again[latent] = on

            done = label_files.store(db, SAE, label_files.read(file.encode(), SAE), "eve", star)
            assert done == label_files.Imported(new=len(rows))
            assert again == {latent: latent in starred for latent in rows}
            assert _values(labels.everything(db, SAE.id)) == before


def _values(rows: list[Any]) -> list[tuple[Any, ...]]:
    return [(row.latent, row.text, row.note.replace("\r\n", "\n").replace("\r", "\n"), row.tags)
            for row in rows]


def test_values_that_a_file_does_not_give_stay(sessions: SessionFactory) -> None:
    with sessions() as db:
        labels.save(db, SAE.id, 3, "ada", text="kept", note="kept too", tags="b, a ,b")
        label_files.store(db, SAE, label_files.read(b"latent,note\n3,new\n", SAE), "eve")
        row = labels.get(db, SAE.id, 3)
        assert row is not None
        assert (row.text, row.note, row.tags, row.author) == ("kept", "new", "a, b", "eve")
        assert labels.tagged(db, SAE.id) == {"a": frozenset({3}), "b": frozenset({3})}


def test_cells_are_no_formulas(sessions: SessionFactory) -> None:
    with sessions() as db:
        labels.save(db, SAE.id, 3, "ada", text="=1+1")
        file = label_files.as_csv(labels.everything(db, SAE.id))
        assert "'=1+1" in file
        assert label_files.read(file.encode(), SAE)[0]["text"] == "=1+1"


def test_an_import_says_what_it_changed(sessions: SessionFactory) -> None:
    with sessions() as db:
        for latent in (1, 2, 3):
            labels.save(db, SAE.id, latent, "ada", text=f"label {latent}")
        labels.save(db, SAE.id, 4, "ada", text="taken away")
        labels.save(db, SAE.id, 4, "ada", text="")
        file = b"latent,text\n1,label 1\n2,another\n3,x\n3,label 3\n4,back\n5,new\n"
        done = label_files.store(db, SAE, label_files.read(file, SAE), "eve")
        assert done == label_files.Imported(new=2, replaced=1, unchanged=2)
        assert [(row.text, row.author) for row in labels.earlier(db, SAE.id, 2)] == [("label 2", "ada")]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", ["list", "lines", "one line"])
def test_explanations_of_neuronpedia(sessions: SessionFactory, shape: str, pack: Any) -> None:
    long = "word " * 60
    rows: list[dict[str, Any]] = [
        {"modelId": "demo", "layer": "2-res", "index": "3", "description": "the word if", "typeName": None},
        {"modelId": "demo", "layer": "2-res", "index": 4, "description": long}][: 1 if shape == "one line" else 2]
    text = json.dumps(rows) if shape == "list" else "\n".join(json.dumps(row) for row in rows) + "\n"
    with sessions() as db:
        done = label_files.store(db, SAE, label_files.read(pack(text.encode()), SAE), "eve")
        assert done.new == len(rows)
        assert labels.texts(db, SAE.id)[3] == "the word if"
        if len(rows) == 2:
            row = labels.get(db, SAE.id, 4)
            assert row is not None
            assert (row.text[-5:], len(row.text), row.note) == ("word…", 200, long.strip())


@pytest.mark.parametrize(("content", "message"), [
    (gzip.compress(b"{}", mtime=0)[:-4], "cut off"), (b"\x1f\x8bnothing", "decompressed"),
    (gzip.compress(b" " * (label_files.MAX_BYTES + 1)), "larger than 50 MB"),
    (b'{"index": 3, "description": "a"}\n{', "line 2"), (b'{"index": 99, "description": "a"}', "0 to 49"),
    (b'{"index": 3, "description": 5}', "text must be"),
    (b"\xff\xfe", "UTF-8"), (b"{", "not JSON"), (b'{"labels": 3}', "no list"), (b"a,b\n1,2\n", "no column"),
    (b'[{"latent": 50}]', "0 to 49"), (b'[{"latent": "x"}]', "label 1"), (b"[3]", "label 1"),
    (b'[{"latent": 1, "text": 5}]', "text must be"), (b'[{"latent": 1, "note": "' + b"x" * 10_001 + b'"}]', "note"),
    (b'[{"latent": 1, "text": "a\\ud800b"}]', "surrogate"), (b'{"index": 3, "description": "\\udfff"}', "surrogate"),
    (b'[{"latent": 1, "text": "fine"}, {"latent": -1}]', "label 2"),
], ids=lambda value: "file" if isinstance(value, bytes) else str(value))
def test_a_bad_file_stores_nothing(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        label_files.read(content, SAE)
    assert error.value.field == "file"
