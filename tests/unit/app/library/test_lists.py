"""Tests of named lists: their members, their files, and what is refused."""

from __future__ import annotations

import csv
import io
import json

import pytest

from app.db.engine import SessionFactory
from app.db.tables import Label
from app.library import lists
from sae.errors import UserError

SAE, OTHER = "demo/one", "demo/two"


def test_a_list_keeps_its_order_and_each_latent_once(sessions: SessionFactory) -> None:
    with sessions() as db:
        one = lists.create(db, "ada", "  two \n words ", "about", "def f")
        for sae_id, latent, note in ((SAE, 9, "a"), (OTHER, 2, None), (SAE, 9, "b"), (SAE, 9, None)):
            lists.put(db, one, sae_id, latent, "eve", note)
        assert [(row.sae_id, row.latent, row.note) for row in lists.members(db, one.id)] == [
            (SAE, 9, "b"), (OTHER, 2, "")]
        assert [(row.name, n) for row, n in lists.every(db)] == [("two words", 2)]
        assert [row.id for row in lists.with_latent(db, SAE, 9)] == [one.id]
        lists.take_out(db, one, SAE, 9)
        lists.take_out(db, one, SAE, 9)
        assert lists.with_latent(db, SAE, 9) == []
        lists.change(db, one, description="other")
        assert (one.name, one.description, one.test_text) == ("two words", "other", "def f")
        lists.remove(db, one)
        assert (lists.every(db), lists.members(db, one.id)) == ([], [])


def test_files_have_labels_and_no_formulas(sessions: SessionFactory) -> None:
    with sessions() as db:
        one = lists.create(db, "ada", "=list")
        lists.put(db, one, SAE, 9, "ada", "=1+1")
        rows = lists.rows(lists.members(db, one.id), {(SAE, 9): Label(text="self")})
        found = json.loads(lists.as_json(one, rows))
        assert (found["name"], found["latents"][0]["label"], found["latents"][0]["note"]) == ("=list", "self", "=1+1")
        (row,) = csv.DictReader(io.StringIO(lists.as_csv(rows)))
        assert (row["sae"], row["latent"], row["label"], row["note"]) == (SAE, "9", "self", "'=1+1")


def test_what_is_too_long_or_empty_is_refused(sessions: SessionFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    with sessions() as db:
        one = lists.create(db, "ada", "one")
        for values, field in ((("", ""), "name"), (("x" * 81, ""), "name"), (("a", "x" * 20_001), "description")):
            with pytest.raises(UserError) as fault:
                lists.create(db, "ada", *values)
            assert fault.value.field == field
        with pytest.raises(UserError) as fault:
            lists.put(db, one, SAE, 1, "ada", "x" * 2_001)
        assert fault.value.field == "note"
        monkeypatch.setattr(lists, "MAX_MEMBERS", 1)
        lists.put(db, one, SAE, 1, "ada")
        lists.put(db, one, SAE, 1, "ada", "still possible")
        with pytest.raises(UserError, match="limit"):
            lists.put(db, one, SAE, 2, "ada")
