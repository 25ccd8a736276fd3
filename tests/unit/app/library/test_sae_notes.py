"""Tests of the administrators' note on an SAE."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.library.sae_notes import MAX_NOTE, NOTES, read_notes, write_notes
from sae.errors import UserError

NONE = {"note": "", "hidden": False}


def test_a_note_comes_back_as_text(tmp_path: Path) -> None:
    assert read_notes(tmp_path) == NONE
    write_notes(tmp_path, "  one\r\ntwo\0three ", hidden=True)
    assert read_notes(tmp_path) == {"note": "one\ntwo three", "hidden": True}


def test_a_note_that_is_too_long_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    write_notes(tmp_path, "x" * MAX_NOTE, hidden=False)
    with pytest.raises(UserError, match="limit is 2,000") as caught:
        write_notes(tmp_path, "y" * (MAX_NOTE + 1), hidden=False)
    assert caught.value.field == "note"
    assert read_notes(tmp_path)["note"] == "x" * MAX_NOTE


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', '{"hidden": "yes"}'])
def test_a_damaged_file_means_no_note(tmp_path: Path, content: str) -> None:
    (tmp_path / NOTES).write_text(content)
    assert read_notes(tmp_path) == NONE
