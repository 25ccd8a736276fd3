"""Labels of a file and of Python's parser at the right tokens; bad files get one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae.errors import UserError
from sae.evaluation.annotations import DocumentText, annotate
from sae.evaluation.python_concepts import python_spans


@pytest.fixture
def subject(subject_of: Any, tiny_sae: Any) -> Any:
    return subject_of(tiny_sae())


def text_of(subject: Any, document: int = 0) -> str:
    return DocumentText.of(subject, document).data.decode()


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_document_is_put_together_from_its_contexts(subject: Any) -> None:
    import bisect

    assert Path(bisect.__file__).read_text(encoding="utf-8").startswith(text_of(subject))


def test_labels_of_a_file_are_at_the_tokens_they_overlap(subject: Any, tmp_path: Path) -> None:
    """Check, token by token, that a token is in the span exactly if its bytes overlap it."""
    text, pieces = text_of(subject), subject.model.vocabulary()[0]
    start = text.index("def insort_right")
    rows: list[dict[str, Any]] = [
        {"document": "bisect.py", "start": start + 4, "end": start + 190, "label": "head"},
        {"document": "bisect.py", "start": 0, "end": 1, "label": "first"}]
    found = annotate(replace(subject, labels=write(tmp_path / "l.jsonl", *rows)))
    assert sorted(found.concepts) == ["first", "head"]
    assert set(subject.corpus.doc[found.contexts]) == {0}
    at = 0
    for context in np.flatnonzero(subject.corpus.doc == 0).tolist():
        inside = {(p, c) for a, b, c in found.spans[context] for p in range(a, b)}
        for position in range(1, subject.corpus.length[context]):
            size = len(pieces[subject.corpus.tokens[context, position]])
            for row in rows:
                overlaps = at < row["end"] and at + size > row["start"]
                assert ((position, found.concepts.index(row["label"])) in inside) == overlaps
            at += size


def test_without_a_file_python_is_parsed(subject: Any) -> None:
    """Check that documents which do not parse are left out; the corpus cuts two of its files in the middle."""
    found = annotate(subject)
    parsed = {document for document in range(4) if python_spans(text_of(subject, document)) is not None}
    assert 0 < len(parsed) < 4
    assert set(subject.corpus.doc[found.contexts]) == parsed
    assert {"docstring", "comment", "string"} <= set(found.concepts)


def test_characters_of_several_bytes_keep_their_places(subject: Any, tmp_path: Path) -> None:
    ids = subject.model.encode("größer ≥ é = 1\n" * 3)[:30]
    row = np.array([[subject.model.bos_id, *ids, *[0] * (31 - len(ids))]], dtype=np.uint16)
    corpus = replace(subject.corpus, tokens=row, length=np.array([len(ids) + 1], dtype=np.int32),
                     doc=np.zeros(1, dtype=np.int32), offset=np.zeros(1, dtype=np.int64), documents=["a.py"],
                     held_out=np.ones(1, dtype=np.bool_))
    labels = write(tmp_path / "l.jsonl", {"document": "a.py", "start": 9, "end": 10, "label": "e"})
    subject = replace(subject, corpus=corpus, contexts=np.array([0]), labels=labels)
    (start, end, _), = annotate(subject).spans[0]
    pieces = subject.model.vocabulary()[0]
    assert "é" in b"".join(pieces[t] for t in row[0, start:end]).decode("utf-8", "replace")


BAD = [
    ({"document": "none.py", "start": 0, "end": 3, "label": "x"}, r"line 1: the text has no document 'none.py'"),
    ({"document": "bisect.py", "start": 0, "end": 10**7, "label": "x"}, r"line 1: 0 to 10000000 is no span of bisect"),
    ({"document": "bisect.py", "start": 5, "end": 5, "label": "x"}, "5 to 5 is no span"),
    ({"document": "bisect.py", "start": -1, "end": 5, "label": "x"}, "-1 to 5 is no span"),
    ({"text": "a", "label": "x"}, r"start and end \(whole numbers\); it has text, label"),
    ({"document": "bisect.py", "start": 1.5, "end": 5, "label": "x"}, "whole numbers"), ([1], "not a JSON object")]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_row_is_named_in_one_line(subject: Any, tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        annotate(replace(subject, labels=write(tmp_path / "l.jsonl", row)))
    assert "\n" not in str(caught.value)
    assert caught.value.field == "labels"


def test_files_that_cannot_be_used_are_refused(subject: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        annotate(replace(subject, labels=tmp_path / "missing.jsonl"))
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not JSONL in UTF-8"):
        annotate(replace(subject, labels=tmp_path / "bad.jsonl"))
    with pytest.raises(UserError, match=r"no document annotated in e\.jsonl"):
        annotate(replace(subject, labels=write(tmp_path / "e.jsonl")))


def test_text_that_is_not_python_asks_for_a_file(subject: Any) -> None:
    tokens = subject.corpus.tokens.copy()
    tokens[:, 1:] = subject.model.encode(" is")[0]
    with pytest.raises(UserError, match="no held-out document is valid Python"):
        annotate(replace(subject, corpus=replace(subject.corpus, tokens=tokens)))
