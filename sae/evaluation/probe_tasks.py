"""Binary tasks for probes: examples, each one token of a text, with labels that are 0 or 1.

A label file of texts (CSV or JSONL with the columns `text` and `label`) gives one task for each label, against all
others.  The example is the last token of the text.  A file of token annotations, or without any file Python's own
syntax (`sae.evaluation.annotations`), gives one task for each concept.  The examples are then tokens of the held-out
text: half of them carry the concept.

A data set of sae-probes (`sae.evaluation.probe_sets`) is one task, with the last token of each text as its example.

Train and test examples are of different texts, or of different documents.

Shapes: N examples, D width of the SAE's input, S positions.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae.data.corpus import Corpus
from sae.errors import UserError
from sae.evaluation.annotations import KEYS, Annotations, annotate, read_jsonl
from sae.evaluation.measure import Progress, Subject
from sae.evaluation.probe_sets import MIN_TEST, ProbeSet, read_set, split
from sae.evaluation.reading import first_contexts, halves, read_tokens

MIN_EXAMPLES = 20  # of each class, in train and test together
MAX_LABELS = 50
_BATCH = 32
_TABLES = (".csv", ".tsv")
csv.field_size_limit(1 << 27)


@dataclass(frozen=True)
class Task:
    """Examples of one binary task, in random order."""

    name: str
    train_N: NDArray[np.int64]  # rows of the activations
    test_N: NDArray[np.int64]
    y_N: NDArray[np.float64]  # label of every row; only the rows in `train_N` and `test_N` count


@dataclass(frozen=True)
class Examples:
    """The SAE's input on every example, which the tasks share."""

    x_ND: Tensor
    tasks: list[Task]


def load_examples(subject: Subject, n_train: int, n_test: int, n_tokens: int, progress: Progress) -> Examples:
    """Read the activations of all tasks' examples: up to `n_train` and `n_test` of a task.

    Raises UserError (field `labels`, or `text` without a file).
    """
    if subject.labels is not None and not _is_annotations(subject.labels):
        return _of_texts(subject, subject.labels, n_train, n_test, progress)
    return _of_tokens(subject, n_train, n_test, n_tokens, progress)


# ---- texts


def _is_annotations(path: Path) -> bool:
    """Return whether the first row of a label file is a token annotation."""
    if path.suffix.lower() in _TABLES:
        return False
    _, first = next(read_jsonl(path), (0, {}))
    return "text" not in first and bool(set(first) & set(KEYS[:3]))


def read_labelled_texts(path: Path) -> list[tuple[str, str]]:
    """Read (text, label) of a CSV or JSONL file.  Raises UserError (field `labels`)."""
    rows = list(_csv_rows(path) if path.suffix.lower() in _TABLES else read_jsonl(path))
    out = []
    for line, row in rows:
        text, label = row.get("text"), row.get("label")
        if not isinstance(text, str) or label is None or isinstance(label, dict | list):
            raise UserError(f"labels: {path.name}, line {line}: a row needs the columns text and label; it has "
                            f"{', '.join(map(str, row)) or 'nothing'}", "labels")
        out.append((text, label if isinstance(label, str) else json.dumps(label)))
    counts = Counter(label for _, label in out)
    if len(counts) < 2:
        found = f"all {len(out)} rows have the label {out[0][1]!r}" if out else "it has no rows"
        raise UserError(f"labels: {path.name}: {found}; a probe needs two labels", "labels")
    if len(counts) > MAX_LABELS:
        raise UserError(f"labels: {path.name} has {len(counts)} labels, and each is a task; at most {MAX_LABELS} can "
                        "be used", "labels")
    return out


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            if not {"text", "label"} <= set(reader.fieldnames or ()):
                raise UserError(f"labels: {path.name} needs the columns text and label in its first line; it has "
                                f"{', '.join(reader.fieldnames or ()) or 'nothing'}", "labels")
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise UserError(f"labels: {path} cannot be read: {error.strerror}", "labels") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"labels: {path.name} is not CSV in UTF-8: {error}", "labels") from None


def _of_texts(subject: Subject, path: Path, n_train: int, n_test: int, progress: Progress) -> Examples:
    rows = read_labelled_texts(path)
    ids = subject.model.encode_many([text for text, _ in rows])
    kept = [i for i, tokens in enumerate(ids) if tokens]
    rng = np.random.default_rng(subject.seed)
    order = rng.permutation(kept)  # texts may be sorted by label
    labels = np.array([rows[i][1] for i in order])
    n = min(len(order), 4 * (n_train + n_test))
    n_held = max(1, min(n_test, n // 3))
    names = sorted(set(labels))
    tasks = []
    for name in names if len(names) > 2 else names[1:]:
        y_N = (labels == name).astype(np.float64)
        _check_classes(path, name, y_N)
        test_N, train_N = np.arange(n_held), balanced(np.arange(n_held, n), y_N, n_train, rng)
        if len(np.unique(y_N[test_N])) == 2 and len(np.unique(y_N[train_N])) == 2:
            tasks.append(Task(str(name), train_N, test_N, y_N))
    if not tasks:
        raise UserError(f"labels: {path.name} has too few texts of each label for train and test", "labels")
    return Examples(last_tokens(subject, [ids[i] for i in order[:n]], progress), tasks)


def _check_classes(path: Path, name: str, y_N: NDArray[np.float64]) -> None:
    for label, count in ((name, int(y_N.sum())), (f"not {name}", int((1 - y_N).sum()))):
        if count < MIN_EXAMPLES:
            raise UserError(f"labels: {path.name} has {count} texts with the label {label}; a probe needs at least "
                            f"{MIN_EXAMPLES}", "labels")


@torch.no_grad()
def last_tokens(subject: Subject, ids: list[list[int]], progress: Progress) -> Tensor:
    """Return the SAE's input at the last token of every text, [N, D]; of an empty text, at BOS.

    Texts that are longer than the SAE's context are cut at their start.
    """
    lm, out = subject.model, torch.empty(len(ids), len(subject.sae.b_in_D))
    longest = min(subject.corpus.context_length, lm.info.n_ctx) - 1
    ids = [tokens[-longest:] for tokens in ids]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        length = torch.tensor([len(ids[i]) for i in rows])
        tokens_PS = torch.full((len(rows), int(length.max()) + 1), lm.bos_id)
        for row, i in enumerate(rows):
            tokens_PS[row, 1 : length[row] + 1] = torch.tensor(ids[i])
        x_PSD = lm.activations(tokens_PS.to(lm.device), subject.sae.hook)
        out[rows] = x_PSD[torch.arange(len(rows)), length].cpu()
        progress(start + len(rows), len(order))
    return out.to(subject.sae.device)


def examples_of_set(
    subject: Subject, probe_set: ProbeSet, n_train: int, n_test: int, progress: Progress
) -> Examples:
    """Read the activations of a data set of sae-probes: `n_train` texts, if it has them, and up to `n_test` others.

    Raises UserError (field `labels`) if it has too few texts.
    """
    texts, y_N = read_set(probe_set)
    n_fitted, n_positive = min(len(texts) - MIN_TEST, n_train), int(y_N.sum())
    if n_fitted < 2 or min(n_positive, len(y_N) - n_positive) <= n_fitted / 2:
        raise UserError(f"labels: {probe_set.path.name} has {len(texts)} texts, of which {n_positive} are positive; a "
                        f"probe needs more than {max(n_fitted // 2, 1)} of either kind, and {MIN_TEST} to test it",
                        "labels")
    train_N, test_N = split(y_N, n_fitted, len(texts) - n_fitted - 1, subject.seed)
    chosen, rows = np.concatenate([train_N, test_N[:n_test]]), np.arange(len(train_N) + min(len(test_N), n_test))
    x_ND = last_tokens(subject, subject.model.encode_many([texts[i] for i in chosen]), progress)
    return Examples(x_ND, [Task(probe_set.name, rows[: len(train_N)], rows[len(train_N) :], y_N[chosen])])


def balanced(
    rows_N: NDArray[np.int64], y_N: NDArray[np.float64], n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return up to `n` of the rows in random order, half of them of either class."""
    picked = [rng.permutation(rows_N[y_N[rows_N] == label]) for label in (0, 1)]
    size = min(n // 2, *map(len, picked))
    return rng.permutation(np.concatenate([part[:size] for part in picked]))


# ---- tokens


def _of_tokens(subject: Subject, n_train: int, n_test: int, n_tokens: int, progress: Progress) -> Examples:
    """Make one task of each concept that has enough tokens in both halves of the documents."""
    annotations = annotate(subject)
    contexts = annotations.contexts[np.isin(annotations.contexts, first_contexts(subject, n_tokens))]
    parts = [_labelled(subject.corpus, annotations, half) for half in halves(subject, contexts)]
    places, x_ND = _inputs(subject, contexts, progress)
    rng, tasks = np.random.default_rng(subject.seed), []
    for concept, name in enumerate(annotations.concepts):
        y_N, rows = np.zeros(len(places)), []
        for (place_M, carries_MC), n in zip(parts, (n_train, n_test), strict=True):
            read_M = np.isin(place_M, places)  # not the tokens that training left out
            at_M = np.searchsorted(places, place_M[read_M])
            y_N[at_M] = carries_MC[read_M, concept]
            rows.append(balanced(at_M, y_N, n, rng))
        if min(map(len, rows)) >= 2 * MIN_EXAMPLES:
            tasks.append(Task(name, rows[0], rows[1], y_N))
    if not tasks:
        raise UserError(f"labels: none of {len(annotations.concepts)} concepts has {MIN_EXAMPLES} tokens with it and "
                        "without it in both halves of the held-out text", "labels" if subject.labels else "text")
    return Examples(x_ND, tasks)


def _labelled(
    corpus: Corpus, annotations: Annotations, contexts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the places (context · S + position) of the text tokens, and which concepts each carries."""
    places, carries = [np.zeros(0, dtype=np.int64)], [np.zeros((0, len(annotations.concepts)), dtype=np.bool_)]
    for context in contexts.tolist():
        n = int(corpus.length[context]) - 1
        places.append(context * corpus.context_length + np.arange(1, n + 1))
        carries_SC = np.zeros((n, len(annotations.concepts)), dtype=np.bool_)
        for a, b, concept in annotations.spans[context]:
            carries_SC[a - 1 : b - 1, concept] = True
        carries.append(carries_SC)
    return np.concatenate(places), np.concatenate(carries)


def _inputs(subject: Subject, contexts: NDArray[np.int64], progress: Progress) -> tuple[NDArray[np.int64], Tensor]:
    """Return the places of the counted tokens, ascending, and the SAE's input on each."""
    batches = list(read_tokens(subject, np.sort(contexts), progress))
    S = subject.corpus.context_length
    return (torch.cat([batch.context_N * S + batch.position_N for batch in batches]).numpy(),
            torch.cat([batch.x_ND for batch in batches]))
