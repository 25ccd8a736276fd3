"""Tasks of label files and of the text's own tokens; bad files get one line."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae.errors import UserError
from sae.evaluation import probe_tasks
from sae.evaluation.annotations import annotate
from sae.evaluation.probe_tasks import load_examples


def silent(done: int, of: int) -> None: ...


@pytest.fixture
def subject(subject_of: Any, tiny_sae: Any) -> Any:
    return subject_of(tiny_sae())


def csv_file(path: Path, rows: list[Any], header: tuple[str, ...] = ("text", "label")) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_texts_are_read_at_their_last_token(subject: Any, tmp_path: Path) -> None:
    """Check activations, labels, and that train is balanced and shares no text with test."""
    rows = [(f"x{i} = " + ("return" if i % 3 else "1, [2]" * (1 + i % 20)), "yes" if i % 3 else "no")
            for i in range(100)]
    subject = replace(subject, labels=csv_file(tmp_path / "l.csv", rows))
    found = load_examples(subject, 30, 20, 0, silent)
    (task,) = found.tasks
    assert task.name == "yes"
    assert len(task.test_N) == 20
    assert len(task.train_N) == 30
    assert task.y_N[task.train_N].mean() == 0.5
    assert not set(task.train_N) & set(task.test_N)
    order = np.random.default_rng(0).permutation(100)
    for row in (0, 7, 30):
        text, label = rows[order[row]]
        ids = torch.tensor([[subject.model.bos_id, *subject.model.encode(text)[-31:]]])
        expected_D = subject.model.activations(ids, subject.sae.hook)[0, -1]
        assert torch.allclose(found.x_ND[row], expected_D, atol=1e-3)
        assert task.y_N[row] == (label == "yes")


def test_every_label_of_several_is_a_task_against_the_others(subject: Any, tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text("".join(json.dumps({"text": f"a{i}", "label": i % 3}) + "\n" for i in range(90)))
    found = load_examples(replace(subject, labels=path), 40, 20, 0, silent)
    assert [task.name for task in found.tasks] == ["0", "1", "2"]
    assert np.array_equal(sum(task.y_N for task in found.tasks), np.ones(90))


def test_tokens_carry_the_concept_exactly_if_their_label_is_one(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_tasks, "MIN_EXAMPLES", 4)
    found = load_examples(subject, 40, 30, 10**6, silent)
    annotations = annotate(subject)
    places = [(c, p) for c in sorted(annotations.contexts.tolist()) for p in range(1, subject.corpus.length[c])]
    assert len(found.x_ND) == len(places)
    doc = subject.corpus.doc
    for task in found.tasks:
        concept = annotations.concepts.index(task.name)
        for row in (*task.train_N, *task.test_N):
            c, p = places[row]
            assert task.y_N[row] == any(a <= p < b and k == concept for a, b, k in annotations.spans[c])
        train, test = ({doc[places[row][0]] for row in rows} for rows in (task.train_N, task.test_N))
        assert not train & test
        assert task.y_N[task.train_N].mean() == 0.5
    c, p = places[50]
    tokens = torch.from_numpy(subject.corpus.tokens[[c]].astype(np.int64))
    expected_D = subject.model.activations(tokens, subject.sae.hook)[0, p]
    assert torch.allclose(found.x_ND[50], expected_D, atol=1e-3)


BAD = [
    ("l.csv", "text,label\n" + "a,x\n" * 40, "all 40 rows have the label 'x'; a probe needs two"),
    ("l.csv", "title,stars\na,1\n", "needs the columns text and label in its first line; it has title, stars"),
    ("l.csv", "text,label\n", "it has no rows"),
    ("l.csv", "text,label\n" + "a,x\n" * 40 + "b,y\n" * 3, "3 texts with the label y; a probe needs at least 20"),
    ("l.jsonl", '{"text": "a"}\n', "line 1: a row needs the columns text and label; it has text"),
    ("l.jsonl", "".join(f'{{"text": "a", "label": {i}}}\n' for i in range(60)), "has 60 labels"),
    ("l.jsonl", "nonsense\n", "not JSONL"), ("l.csv", "text,label\n\xff".encode("latin-1"), "not CSV in UTF-8")]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_a_bad_file_gets_one_line(subject: Any, tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        load_examples(replace(subject, labels=path), 40, 20, 0, silent)
    assert "\n" not in str(caught.value)
    assert caught.value.field == "labels"


def test_token_annotations_are_tasks_too(subject: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_tasks, "MIN_EXAMPLES", 2)
    path = tmp_path / "l.jsonl"
    path.write_text("".join(json.dumps({"document": name, "start": s, "end": s + 30, "label": "mark"}) + "\n"
                            for name in subject.corpus.documents for s in (10, 90, 200)))
    found = load_examples(replace(subject, labels=path), 20, 20, 10**6, silent)
    assert [task.name for task in found.tasks] == ["mark"]
