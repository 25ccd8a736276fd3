"""Labelled spans of a corpus's documents, as positions in its contexts.

The labels come from a JSONL file of {"document", "start", "end", "label"}, with offsets in characters of the
document, or from the parser of Python (`sae.evaluation.python_concepts`).  Documents without a span in the file
count as not annotated, and are not read.

Shapes: P contexts, S positions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae.errors import UserError
from sae.evaluation.measure import Subject
from sae.evaluation.probe_sets import are_probe_sets
from sae.evaluation.python_concepts import Span, python_spans
from sae.lm.bridge import LanguageModel

KEYS = ("document", "start", "end", "label")


@dataclass(frozen=True)
class Annotations:
    """The spans of some contexts.  A span that crosses the end of a context is one span in either."""

    concepts: list[str]
    contexts: NDArray[np.int64]  # [P], the ones in annotated documents
    spans: dict[int, list[tuple[int, int, int]]]  # by context: first position, end position (exclusive), concept


def annotate(subject: Subject) -> Annotations:
    """Return the spans in the subject's contexts, from its label file or else from Python's parser.

    Raises UserError (field `labels`, or `text` without a file) if there are none.
    """
    documents = np.unique(subject.corpus.doc[subject.contexts])
    by_document = _of_file(subject) if subject.labels else {}
    concepts: dict[str, int] = {}
    spans: dict[int, list[tuple[int, int, int]]] = {}
    for document in documents.tolist():
        if subject.labels and document not in by_document:
            continue
        text = DocumentText.of(subject, document)
        found = by_document.get(document) if subject.labels else python_spans(text.data.decode("utf-8", "replace"))
        for context, positions in text.positions(found or []):
            if found is not None:
                spans[context] = [(a, b, concepts.setdefault(label, len(concepts))) for a, b, label in positions]
    contexts = subject.contexts[np.isin(subject.contexts, list(spans))]
    if not concepts or not len(contexts):
        if subject.labels:
            raise UserError(f"labels: no document annotated in {subject.labels.name} is among the held-out texts that "
                            "are measured", "labels")
        raise UserError("text: no held-out document is valid Python; give a file of token annotations (document, "
                        "start, end, label)", "text")
    return Annotations(list(concepts), contexts, {int(c): spans[int(c)] for c in contexts})


@dataclass(frozen=True)
class DocumentText:
    """A document of a corpus, put together from its contexts."""

    data: bytes
    starts: dict[int, NDArray[np.int64]]  # by context: the byte at which each of its text tokens begins, and the end

    @classmethod
    def of(cls, subject: Subject, document: int) -> DocumentText:
        corpus, (pieces, _) = subject.corpus, subject.model.vocabulary()
        rows = np.flatnonzero(corpus.doc == document)
        parts, starts, at = [], {}, -_added_space(subject.model)
        for row in rows[np.argsort(corpus.offset[rows], kind="stable")].tolist():
            tokens = [pieces[token] for token in corpus.tokens[row, 1 : corpus.length[row]].tolist()]
            starts[row] = at + np.cumsum([0, *map(len, tokens)])
            at = int(starts[row][-1])
            parts += tokens
        return cls(b"".join(parts)[_added_space(subject.model) :], starts)

    def positions(self, found: list[Span]) -> Iterator[tuple[int, list[tuple[int, int, str]]]]:
        """Yield for every context the positions of the tokens that each span overlaps."""
        for context, start in self.starts.items():
            inside = [(np.searchsorted(start[1:], a, "right"), np.searchsorted(start[:-1], b, "left"), label)
                      for a, b, label in found if a < start[-1] and b > start[0]]
            yield context, [(int(a) + 1, int(b) + 1, label) for a, b, label in inside if a < b]  # BOS is position 0


def _added_space(model: LanguageModel) -> int:
    """Return 1 if the tokenizer puts a space in front of every document, else 0."""
    pieces, _ = model.vocabulary()
    return int(b"".join(pieces[token] for token in model.encode("a")).startswith(b" "))


def _of_file(subject: Subject) -> dict[int, list[Span]]:
    """Read the label file: byte spans by document.  Raises UserError (field `labels`) that names the line."""
    assert subject.labels is not None
    number_of = {name: number for number, name in enumerate(subject.corpus.documents)}
    wanted = set(np.unique(subject.corpus.doc[subject.contexts]).tolist())
    out: dict[int, list[Span]] = {}
    ends: dict[int, NDArray[np.int64]] = {}
    for line, row in read_jsonl(subject.labels):
        where = f"labels: {subject.labels.name}, line {line}"
        name, start, end, label = (row.get(key) for key in KEYS)
        if not isinstance(name, str) or not isinstance(label, str) or not label or type(start) is not int or (
                type(end) is not int):
            raise UserError(f"{where}: a span needs document and label (text), start and end (whole numbers); it has "
                            f"{', '.join(row) or 'nothing'}", "labels")
        if name not in number_of:
            raise UserError(f"{where}: the text has no document {name!r}", "labels")
        document = number_of[name]
        if document not in wanted:
            continue  # a document that is not measured
        if document not in ends:
            text = DocumentText.of(subject, document).data.decode("utf-8", "replace")
            ends[document] = np.cumsum([0, *(len(character.encode()) for character in text)])
        length = len(ends[document]) - 1
        if not 0 <= start < end <= length:
            raise UserError(f"{where}: {start} to {end} is no span of {name}, which has {length} characters", "labels")
        out.setdefault(document, []).append((int(ends[document][start]), int(ends[document][end]), label))
    return out


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSONL file with their line numbers.  Raises UserError (field `labels`)."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f"labels: {path.name}, line {number} is not a JSON object", "labels")
                yield number, row
    except OSError as error:
        if are_probe_sets(path):
            raise UserError(f"labels: {path} has labelled texts, which only probing reads; concepts need token "
                            "annotations", "labels") from None
        raise UserError(f"labels: {path} cannot be read: {error.strerror}", "labels") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"labels: {path.name} is not JSONL in UTF-8: {error}", "labels") from None
