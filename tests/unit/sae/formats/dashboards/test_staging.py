"""Tables made from a dashboard's records."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.errors import UserError
from sae.formats.dashboards import staging
from sae.formats.dashboards.records import Dashboard, Example, Explained, Feature, Record
from sae.formats.dashboards.staging import Staging
from sae.formats.histogram_bins import Bins

Rows = list[dict[str, Any]]


def made(*records: Record, **header: Any) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Return the rows of all tables, and the facts for `meta`."""
    values: dict[str, Any] = {"n_prompts": None, "context_length": None, "sample": list, **header}
    dashboard = Dashboard(format="", model="m", name="n", layer=0, hook="", dataset="", n_bytes=0,
                          records=lambda read: iter(records), **values)
    with tempfile.TemporaryDirectory() as folder, Staging(Path(folder), dashboard) as stage:
        for record in records:
            stage.add(record)
        tables, facts = stage.tables()
        found = {}
        for name in tables:
            table = tables[name]
            found[name] = (table if hasattr(table, "to_pylist") else table.read_all()).to_pylist()
        return found, facts


def feature(latent: int, counts: list[int] | None = None, density: float | None = None, **more: Any) -> Feature:
    acts = Bins([0.5 + i for i in range(len(counts))], counts) if counts else None
    return Feature(latent, density, None, acts, None, [], [], [], more)


def example(latent: int, text: str, values: list[float], low: float | None = -1.0, high: float | None = None,
            at: int | None = None, **more: Any) -> Example:
    return Example(latent, list(text), values, low, high, at, more)


def test_contexts_with_the_same_text_become_one_row_of_their_group() -> None:
    tables, facts = made(
        example(0, "ab", [0, 2.0]), example(0, "ab", [0, 3.0]), example(0, "ba", [2.5, 0]),
        example(0, "ab", [0, 1.0], 0.5, 1.5), example(0, "bb", [0, 0.2], 0.1, 0.5))
    shown = [(row["band"], row["rank"], row["act"], row["peak"], row["duplicates"]) for row in sorted(
        tables["context"], key=lambda row: (row["band"], row["rank"]))]
    assert shown == [(0, 0, 3.0, 1, 2), (0, 1, 2.5, 0, 1), (1, 0, 1.0, 1, 1), (2, 0, pytest.approx(0.2), 1, 1)]
    assert (facts["n_latents"], facts["n_bands"]) == (1, 2)


def test_a_sampled_context_shows_the_token_that_it_was_chosen_for() -> None:
    tables, _ = made(example(0, "abc", [3.0, 1.0, 0], -1.0, 3.0, 1), example(0, "abc", [3.0, 1.0, 0], 0.5, 1.5, 1),
                     example(0, "cba", [3.0, 1.0, 0], 0.5, 1.5, 99))
    shown = {(row["band"], row["peak"]): row["act"] for row in tables["context"]}
    assert shown == {(0, 0): 3.0, (1, 1): 1.0, (1, 0): 3.0}


def test_our_own_contexts_keep_their_groups_their_order_and_their_counts() -> None:
    tables, _ = made(
        example(0, "ab", [0, 1.0], 0.5, 1.5, 1, band=3, duplicates=4, ctx=9, document="a.py", doc_offset=7, start=2),
        example(0, "ab", [0, 2.0], 0.5, 1.5, 1, band=3, duplicates=1, document="b.py"),
        example(0, "ab", [0, 3.0], band=3, duplicates=1, document="a.py"))
    rows = sorted(tables["context"], key=lambda row: row["rank"])
    assert [(row["band"], row["rank"], row["act"], row["duplicates"]) for row in rows] == [
        (3, 0, 1.0, 4), (3, 1, 2.0, 1), (3, 2, 3.0, 1)]
    assert (rows[0]["ctx"], rows[0]["doc_offset"], rows[0]["start"]) == (9, 7, 2)
    names = {row["doc"]: row["name"] for row in tables["document"]}
    assert [names[row["doc"]] for row in rows] == ["a.py", "b.py", "a.py"]


def test_latents_that_are_silent_in_all_contexts_show_none() -> None:
    tables, _ = made(feature(0), example(0, "ab", [0, 0]), example(1, "ab", [0, 0]), example(1, "ba", [1.0, 0]))
    assert {row["latent"] for row in tables["context"]} == {1}
    assert {row["latent"]: row["dead"] for row in tables["latent"]} == {0: True, 1: False}


@pytest.mark.parametrize(("counts", "share", "density", "flags"), [
    ([0, 0], 0.0, 0.0, (True, False, False)), ([9, 0], 0.009, 0.009, (False, True, False)),
    ([7, 5], 0.01201, 0.012, (False, False, False)),  # the exact quotient agrees with the rounded share
    ([7, 5], 0.5, 0.5, (False, False, True)),  # of another text
    (None, None, None, (True, None, None)), (None, 0.2, 0.2, (True, None, True))])
def test_flags_follow_from_the_counts_that_a_file_has(
    counts: list[int] | None, share: float | None, density: float | None, flags: tuple[bool | None, ...]
) -> None:
    tables, _ = made(feature(0, counts, share), n_prompts=100, context_length=10)
    (row,) = tables["latent"]
    assert row["density"] == density
    assert (row["dead"], row["rare"], row["dense"]) == flags
    assert row["n_tokens"] == (sum(counts) if counts else None)


def test_contexts_correct_what_a_row_says() -> None:
    seen = example(0, "ab", [0, 2.0])
    tables, _ = made(Feature(0, 0.0, 1.0, None, None, [], [], []), seen, example(3, "a", [4.0]))
    rows = {row["latent"]: row for row in tables["latent"]}
    assert (rows[0]["max_act"], rows[0]["density"], rows[0]["dead"]) == (2.0, None, False)
    assert (rows[3]["max_act"], rows[3]["dead"]) == (4.0, False)  # it has contexts, but no row


def test_our_own_facts_come_back() -> None:
    tables, _ = made(feature(0, mean_act=0.5, n_tokens=7, flags=["rare", "capital"], top_tokens=[["a", 3, 2.5, 1.0],
                                                                                                 ["b", "x", 1, 1], 5]))
    (row,) = tables["latent"]
    assert (row["mean_act"], row["n_tokens"], row["rare"], row["capital"], row["number"]) == (0.5, 7, True, True, False)
    assert (row["top_token_n"], row["top_token_lift"], row["top_token_max"]) == ([3], [2.5], [1.0])
    assert [tables["token"][token]["piece"] for token in row["top_tokens"]] == [b"a"]


@settings(max_examples=5)
@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.tuples(
    st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 2.0])), min_size=1, max_size=4)), max_size=8))
def test_pairs_of_tokens_and_latents_are_counted(contexts: list[tuple[int, list[tuple[str, float]]]]) -> None:
    records = [example(latent, "".join(t for t, _ in pairs), [v for _, v in pairs]) for latent, pairs in contexts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "_BLOCK", 3)  # rows are written while records come
        tables, _ = made(*records)
    pieces = {row["token"]: row["piece"].decode() for row in tables["token"]}
    assert list(pieces.values()) == list(dict.fromkeys(t for _, pairs in contexts for t, _ in pairs))
    n = Counter((t, latent) for latent, pairs in contexts for t, value in pairs if value)
    assert {(pieces[row["token"]], row["latent"]): row["n"] for row in tables["token_latent"]} == n
    for row in tables["token_latent"]:
        assert row["max_act"] == max(value for latent, pairs in contexts for t, value in pairs
                                     if (t, latent) == (pieces[row["token"]], row["latent"]))


def test_explanations_without_text_are_left_out() -> None:
    tables, _ = made(Explained(1, "a letter", "ada"), Explained(2, "", "ada"))
    assert tables["explanation"] == [{"latent": 1, "text": "a letter", "author": "ada"}]


def test_a_latent_that_comes_twice_is_refused() -> None:
    with pytest.raises(UserError, match="it has latent 3 twice"):
        made(feature(3), feature(4), feature(3))


def test_more_tokens_than_a_vocabulary_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_MAX_VOCABULARY", 3)
    with pytest.raises(UserError, match="more than 3 different tokens"):
        made(example(0, "abcd", [1.0, 0, 0, 0]))
