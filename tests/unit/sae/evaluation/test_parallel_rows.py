"""Rows that several threads read are those of one thread, in the order of the text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sae.data.activations import forward_rows
from sae.data.corpus import Corpus
from sae.data.left_out import NOTHING, LeftOut
from sae.evaluation import parallel_rows as module
from sae.evaluation.parallel_rows import parallel_rows
from sae.lm.bridge import LanguageModel

HOOKS = ["blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(module, "_FEWEST", 1)
    monkeypatch.setattr(module, "_PASS_TOKENS", 70)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("left_out", [NOTHING, LeftOut(tokens=(65,))])
def test_rows_are_those_of_one_thread(demo_lm: LanguageModel, code_corpus: Corpus, left_out: LeftOut) -> None:
    contexts = np.random.default_rng(0).permutation(code_corpus.n_contexts)
    found = list(parallel_rows(demo_lm, code_corpus, contexts, HOOKS, left_out))
    assert len(found) == -(-len(contexts) // 2)
    expected = torch.cat(list(forward_rows(
        demo_lm, code_corpus, contexts, HOOKS, include_bos=False, left_out=left_out)))
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("small")
def test_torch_has_its_threads_again_after_a_break(demo_lm: LanguageModel, code_corpus: Corpus) -> None:
    rows = parallel_rows(demo_lm, code_corpus, np.arange(20), HOOKS[:1], NOTHING)
    next(rows)
    assert torch.get_num_threads() == 1
    rows.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 2
