"""Rules that are found on some contexts alone, and their classes of positions against those of the index."""

from __future__ import annotations

import pytest
import torch

from sae.explain.half_rules import classes_in, find_rule, positions_of
from sae.index.token_classes import TokenClasses
from sae.store.records import CLASSES, Context, Token, Vocabulary

PIECES = [b"<bos>", b" cat", b" Dog", b"\n", b"# ", b"(", b")", b"(x))", b'"""', b"'''", b"12", b"  ", b"_a", b"\xc3",
          b".", b"", b"on\n  ", b" 7", b"#!\n"]
INFO = Vocabulary((i, Token(i, piece, i == 0, 0)) for i, piece in enumerate(PIECES))


def context(tokens: list[int], acts: list[float], start: int = 0, ctx: int = 0) -> Context:
    return Context(0, 0, 0, max(acts), ctx, "a", 0, start, 0, tokens, acts, 0)


def test_classes_are_those_of_the_index() -> None:
    tokens_PS = torch.randint(1, len(PIECES), (200, 40), generator=torch.Generator().manual_seed(0))
    tokens_PS[:, 0] = 0
    expected_CPS = TokenClasses.of(PIECES).at(tokens_PS)
    assert expected_CPS.any(dim=2).any(dim=1).all(), "every class occurs"
    for row, expected_CS in zip(tokens_PS.tolist(), expected_CPS.transpose(0, 1), strict=True):
        assert classes_in(row, INFO).tolist() == expected_CS.tolist()


def test_a_window_in_the_middle_has_no_start_of_a_context() -> None:
    names = list(CLASSES)
    found = classes_in([1, 1, 3, 1], INFO, start=7)
    assert not found[names.index("context_start")].any()
    assert found[names.index("line_start")].tolist() == [False, False, False, True]


def test_every_place_counts_once() -> None:
    first = context([5, 6, 7], [1.0, 0.0, 2.0])
    second = context([6, 7, 5, 9], [0.0, 2.0, 0.0, 1.0], start=1)
    other = context([6, 7], [0.0, 0.0], ctx=1)
    found = positions_of([first, second, other], INFO)
    assert found.tokens["token"].tolist() == [5, 6, 7, 5, 9, 6, 7]
    assert found.tokens["previous"].tolist() == [-1, 5, 6, 7, 5, -1, 6]
    assert found.tokens["next"].tolist() == [6, 7, -1, 9, -1, 7, -1]
    assert found.fires.tolist() == [True, False, True, False, True, False, False]


@pytest.mark.parametrize(("tokens", "fires", "kind", "named", "precision", "recall"), [
    ([0, 1, 2, 1, 14, 1, 1, 14], {1, 3, 5, 6}, "token", [1], 1, 1),
    ([0, 1, 1, 1, 1, 14], {1, 2, 3}, "token", [1], 3 / 4, 1),
    ([0, 1, 2, 14, 1, 2, 14, 1, 2, 14, 2, 1], {2, 5, 8}, "previous", [1], 1, 1),
])
def test_the_rule_with_the_best_f1_is_found(
    tokens: list[int], fires: set[int], kind: str, named: list[int], precision: float, recall: float,
) -> None:
    contexts = [context(tokens, [float(i in fires) for i in range(len(tokens))], ctx=n) for n in range(2)]
    rule = find_rule(contexts, INFO)
    assert rule is not None
    assert (rule.kind, rule.tokens, rule.precision, rule.recall) == (kind, named, precision, recall)
    assert rule.f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_a_class_is_found_where_no_few_tokens_say_it() -> None:
    """Each number fires, and none of them often enough to be named."""
    tokens = [0, 1, 10, 2, 17, 14]
    found = find_rule([context(tokens, [0, 0, 1.0, 0, 1.0, 0], ctx=n) for n in range(2)], INFO)
    assert found is not None
    assert (found.kind, found.tokens) == ("token", [10, 17]), "few tokens come first where both are as good"
    many = Vocabulary((i, Token(i, str(i).encode() if i else b"<bos>", i == 0, 0)) for i in range(20))
    numbers = context([0, *range(1, 20)], [0.0, *[1.0] * 19])
    rule = find_rule([numbers], many)
    assert rule is not None
    assert (rule.kind, rule.class_name, rule.precision, rule.recall) == ("class", "number", 1, 1)


def test_without_firings_there_is_no_rule() -> None:
    assert find_rule([], INFO) is None
    assert find_rule([context([1, 1, 1], [1.0, 1.0, 0.0])], INFO) is None
