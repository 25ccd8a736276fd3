"""Tests of the words, the prompts and the probes of first letters."""

from __future__ import annotations

from typing import cast

import torch

from sae.evaluation.first_letters import LETTERS, f1_score, main_latents, sparse_probe, spelling_of, words_of
from sae.lm.bridge import LanguageModel
from tests.unit.sae.evaluation.test_absorption import WORDS, SpellingModel, planted, subject_of


def test_words_are_whole_ascii_tokens_with_their_letters() -> None:
    tokens, letters = words_of(cast(LanguageModel, SpellingModel()), 5, 0)
    assert len(tokens) == 26 * 5
    assert all(WORDS[token - 3][0] == LETTERS[letter] for token, letter in zip(tokens, letters, strict=True))
    assert f1_score(torch.tensor([True, False]), torch.tensor([False, False])) == 0.0


def test_the_sparse_probe_gives_a_latent_that_never_fires_no_weight() -> None:
    subject = subject_of(planted(0))
    x = subject.model.activations(torch.arange(3, 3 + len(WORDS))[None], "")[0]
    weight = sparse_probe(subject.sae.codes(x), torch.tensor([LETTERS.index(word[0]) for word in WORDS]))
    assert torch.equal(weight[:26].argmax(dim=0), torch.arange(26))
    assert bool((weight[:26].diag() > 5 * weight[26:].abs().max()).all())


def test_a_split_latent_is_one_of_two_main_latents() -> None:
    """Two latents share the words of `a`: one alone finds half of them, so both are main."""
    sae = planted(0)
    sae.W_enc_LD[30, 0], sae.W_enc_LD[30, 26], sae.W_enc_LD[0, 27] = 1.0, -5.0, -5.0
    found = spelling_of(subject_of(sae), 100, lambda *_: None)
    assert not isinstance(found, str)
    main = main_latents(sae, found)
    assert sorted(main[0]) == [0, 30]
    assert main[1] == [1]
