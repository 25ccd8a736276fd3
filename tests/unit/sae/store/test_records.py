"""Records made from rows of the tables."""

from __future__ import annotations

from typing import Any

import pytest

from sae.store.intervals import share_interval
from sae.store.records import (
    CLASSES,
    FLAGS,
    CofiringLatent,
    Rule,
    Token,
    TokenFirings,
    Vocabulary,
    context_of,
    latent_of,
    latent_row_of,
)
from sae.store.schema import TABLES

COFIRING = ("together", "implies", "implied_by")


def row(**values: Any) -> dict[str, Any]:
    """Return a row of `latent` whose other columns are null."""
    names = [part.split()[0] for part in TABLES["latent"][0].split(",")]
    assert set(values) <= set(names)
    return dict.fromkeys(names) | values


def test_an_empty_row_is_a_latent_of_which_nothing_is_known() -> None:
    found = latent_of(row(latent=3))
    assert (found.latent, found.flags, found.rule, found.dead) == (3, (), None, False)
    assert found.top_tokens == found.next_tokens == found.logit_pos == found.neighbours == found.together == []
    assert (found.n_tokens, found.hist, found.density) == (None, None, None)


def test_lists_are_joined_to_records() -> None:
    found = latent_of(row(
        latent=3, rare=True, dead=False, capital=True, top_tokens=[5, 6], top_token_n=[2, 1], top_token_lift=[1.5, 9.0],
        top_token_max=[0.5, 0.25], next_tokens=[8], next_token_n=[4], next_token_lift=[2.0], logit_pos=[1],
        logit_pos_value=[3.0], neighbours=[7], neighbour_cos=[0.5], rule_kind="class", rule_class="number",
        rule_precision=0.5, rule_recall=0.25, rule_f1=0.3))
    assert found.flags == ("capital", "rare")
    assert found.top_tokens == [TokenFirings(5, 2, 1.5, 0.5), TokenFirings(6, 1, 9.0, 0.25)]
    assert found.next_tokens == [TokenFirings(8, 4, 2.0, None)]
    assert (found.logit_pos, found.neighbours) == ([(1, 3.0)], [(7, 0.5)])
    assert found.rule == Rule("class", [], "number", 0.5, 0.25, 0.3)


def test_lists_of_different_lengths_are_a_fault() -> None:
    with pytest.raises(ValueError, match="zip"):
        latent_of(row(latent=3, logit_pos=[1, 2], logit_pos_value=[3.0]))


@pytest.mark.parametrize(("n_tokens", "sampled", "estimated"), [
    (64, 64, False), (65, 64, True), (65, None, False), (None, 64, False)])
def test_cofiring_has_an_interval_where_it_is_an_estimate(
    n_tokens: int | None, sampled: int | None, estimated: bool
) -> None:
    columns = {name + part: value for name in COFIRING for part, value in (
        ("", [9]), ("_given", [0.5]), ("_lift", [2.0]), ("_phi", [0.25]))}
    found = latent_of(row(latent=3, n_tokens=n_tokens, **columns), sampled)
    interval = share_interval(0.5, 64.0) if estimated else None
    assert found.together == found.implies == [CofiringLatent(9, 0.5, 2.0, 0.25, interval)]


def test_a_row_of_the_list_has_its_flags_and_its_rule() -> None:
    values = dict.fromkeys((
        "n_tokens", "density", "max_act", "mean_act", "logit_kurtosis", "logit_skew", "mean_l0", "logit_pos",
        "rule_tokens", "rule_class", "rule_precision", "rule_recall", "rule_f1"))
    found = latent_row_of({**values, **dict.fromkeys(FLAGS, False), "latent": 4, "dead": True, "sort_key": 1.0,
                           "rule_kind": "token", "rule_tokens": [2]})
    assert (found.latent, found.flags, found.logit_pos) == (4, ("dead",), [])
    assert found.rule is not None
    assert (found.rule.kind, found.rule.tokens) == ("token", [2])


def test_a_context_is_silent_wherever_no_value_is_given() -> None:
    found = context_of({"latent": 1, "band": 0, "rank": 2, "act": 0.5, "ctx": 7, "doc": 3, "doc_offset": 9, "start": 4,
                        "peak": 3, "tokens": [5, 6, 7, 8], "pos": [1, 3], "val": [0.25, 0.5], "duplicates": 1}, "a.py")
    assert found.acts == [0.0, 0.25, 0.0, 0.5]
    assert (found.document, found.doc_offset, found.tokens) == ("a.py", 9, [5, 6, 7, 8])


def test_a_vocabulary_makes_what_is_asked_for_once_and_knows_no_other_ids() -> None:
    vocabulary = Vocabulary([(1, Token(1, b"a", False, 5))])
    made: list[int] = []

    def size(of: Vocabulary) -> int:
        made.append(len(of))
        return len(of)

    assert vocabulary.kept(size) == vocabulary.kept(size) == 1
    assert made == [1]
    assert vocabulary[9] == Token(9, b"", False, 0)
    assert 9 not in vocabulary


def test_texts_of_flags_and_classes_are_complete() -> None:
    for name in set(FLAGS) & set(CLASSES):  # a flag's text names the same class as the rule's
        assert CLASSES[name].removeprefix("on ") in FLAGS[name]
