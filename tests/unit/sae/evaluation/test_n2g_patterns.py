"""Patterns of latents whose rule is known, and matches against loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sae.evaluation.n2g_patterns import WILDCARD, Pattern, Text, end_activations, find_patterns, matches

PAD = 99


def asked(rule: Callable[[tuple[int, ...]], float]) -> Any:
    def ask(texts: Sequence[Sequence[int]], latents: Sequence[int]) -> np.ndarray:
        assert len(texts) == len(latents)
        return np.array([rule(tuple(text)) for text in texts])

    return ask


RULES = [
    (lambda t: 2.0 * (t[-1] == 5), ((5,), False)),
    (lambda t: 2.0 * (t[-1] == 5 and len(t) > 2 and t[-3] == 7), ((7, WILDCARD, 5), False)),
    (lambda t: 2.0 * (t[-1] == 5 and t[0] == 7 and len(t) == 3), ((7, WILDCARD, 5), True)),
    (lambda t: 2.0 * (len(t) > 1 and t[-2] == 3), ((3, WILDCARD), False)),
    (lambda t: 2.0 if t[-1] == 5 and t[-2:-1] == (3,) else 1.2 * (t[-1] == 5), ((5,), False))]


@pytest.mark.parametrize(("rule", "expected"), RULES)
def test_the_pattern_of_a_rule_is_the_rule(rule: Any, expected: tuple[tuple[int, ...], bool]) -> None:
    text = Text(0, (7, 3, 5) if expected[1] else (1, 2, 7, 3, 5), 2.0)
    assert find_patterns([text], asked(rule), PAD, 8) == [Pattern(*expected)]


def test_a_firing_that_needs_a_long_text_has_no_pattern() -> None:
    texts = [Text(0, (1,) * 20, 2.0), Text(0, (1,) * 3, 2.0)]
    found = find_patterns(texts, asked(lambda t: 2.0 * (len(t) > 8)), PAD, 8)
    assert found == [None, None]


def test_several_texts_keep_their_own_patterns() -> None:
    texts = [Text(0, (1, 2, 5), 2.0), Text(1, (4, 6, 6), 3.0)]
    found = find_patterns(texts, asked(lambda t: 3.0 * (t[-1] in (5, 6))), PAD, 8)
    assert found == [Pattern((5,), False), Pattern((6,), False)]


def test_matches_are_those_of_loops() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 4, (9, 12))
    patterns = [Pattern((1, WILDCARD, 2), False), Pattern((3,), True), Pattern((0, 0), False),
                Pattern((WILDCARD, 2), True), Pattern((1,) * 12, False)]
    found = matches(patterns, tokens)
    for row in range(9):
        for end in range(12):
            expected = False
            for pattern in patterns:
                start = end - len(pattern.tokens) + 1
                if start < 1 or (pattern.at_start and start != 1):
                    continue
                expected |= all(token in (WILDCARD, tokens[row, start + i]) for i, token in enumerate(pattern.tokens))
            assert found[row, end] == expected


def test_a_match_is_found_where_a_trie_without_a_way_back_misses_it() -> None:
    """Check the case in which the exact token leads to a dead end, and the wildcard matches."""
    patterns = [Pattern((8, 2, 5), False), Pattern((9, WILDCARD, 5), False)]
    assert matches(patterns, np.array([[0, 9, 2, 5]]))[0].tolist() == [False, False, False, True]


def test_activations_are_those_of_each_text_alone(subject_of: Any, tiny_sae: Any) -> None:
    subject = subject_of(tiny_sae(n_latents=24))
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 4000, n).tolist() for n in (1, 7, 3, 30, 12, 2)]
    latents = [0, 5, 5, 23, 7, 11]
    found = end_activations(subject)(texts, latents)
    for text, latent, value in zip(texts, latents, found, strict=True):
        x_D = subject.model.activations(torch.tensor([[subject.model.bos_id, *text]]), subject.sae.hook)[:, -1]
        expected = float(subject.sae.activation_of(x_D, torch.tensor([latent])))
        assert value == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert (found > 0).any()
    assert end_activations(subject)([], []).tolist() == []
