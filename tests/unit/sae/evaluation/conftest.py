"""Python source as a corpus of whole documents, which the tests of measures share."""

from __future__ import annotations

import bisect
import heapq
import keyword
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sae.data.corpus import Corpus
from sae.evaluation.measure import Subject

if TYPE_CHECKING:
    from sae.lm.bridge import LanguageModel

S = 32


@pytest.fixture(scope="session")
def code_corpus(demo_lm: LanguageModel) -> Corpus:
    """Make contexts of 32 positions from the starts of four files of the standard library."""
    rows, length, doc, offset, names = [], [], [], [], []
    for number, module in enumerate((bisect, heapq, keyword, textwrap)):
        path = Path(str(module.__file__))
        text = "\n".join(path.read_text(encoding="utf-8").split("\n")[:70])
        ids = demo_lm.encode(text)[: 12 * (S - 1) - 5]
        names.append(path.name)
        for start in range(0, len(ids), S - 1):
            part = ids[start : start + S - 1]
            rows.append([demo_lm.bos_id, *part, *[demo_lm.bos_id] * (S - 1 - len(part))])
            length.append(len(part) + 1)
            doc.append(number)
            offset.append(start)
    return Corpus(
        Path("code"), np.array(rows, dtype=np.uint16), np.array(length, dtype=np.int32), np.array(doc, dtype=np.int32),
        np.array(offset, dtype=np.int64), names, np.ones(len(rows), dtype=np.bool_),
        {"fingerprint": "f", "text": "code"})


@pytest.fixture(scope="session")
def subject_of(demo_lm: LanguageModel, code_corpus: Corpus) -> Any:
    """Makes a subject from an SAE: `subject_of(sae, contexts=..., labels=...)`."""
    def make(sae: Any, contexts: Any = None, **changes: Any) -> Subject:
        contexts = np.arange(code_corpus.n_contexts) if contexts is None else np.array(contexts)
        return Subject(sae, demo_lm, code_corpus, contexts, **{"seed": 0, **changes})

    return make
