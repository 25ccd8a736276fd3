"""Tests of the columns of the latent table."""

from __future__ import annotations

from typing import Any

import pytest

from app.pages.explore.latents_columns import CHOOSABLE, MORE_SORTS, sort_names, table_columns
from app.pages.explore.latents_query import COLUMNS, LABEL_SORT, Resolved
from sae.store.latent_query import LOGIT_SORT, SCORE_SORT, SORTS, Filters
from tests.unit.app.pages.explore.records import row

ROWS = [row(i) for i in range(4)]


def asked(sort: str = "latent", **changes: Any) -> Resolved:
    logit = changes.pop("logit", None)
    filters = Filters(frozenset(), "", None, logit, ())
    return Resolved(**{"sort": sort, "descending": True, "filters": filters, "token": None, "scores": {}, **changes})


def keys(resolved: Resolved) -> list[str]:
    return [column.key for column in table_columns(resolved, ROWS)]


def test_the_plain_table() -> None:
    assert keys(asked()) == ["latent", "text", "density", "max", "kurtosis", "phi", "top"]


def test_a_token_or_a_logit_has_columns_of_its_own() -> None:
    assert keys(asked("lift", token=5)) == ["latent", "text", "lift", "firings", "density", "max", "top"]
    assert "context on the token" in table_columns(asked("lift", token=5), ROWS)[1].name
    assert keys(asked(LOGIT_SORT, logit=5)) == ["latent", "text", "logit", "density", "max", "top"]


@pytest.mark.parametrize("sort", [column.sort for column in MORE_SORTS])
def test_a_number_without_a_column_gets_one_when_it_sorts(sort: str) -> None:
    found = [column for column in table_columns(asked(sort), ROWS) if column.key == "sorted"]
    assert [column.sort for column in found] == [sort]
    assert not found[0].extra, "a phone shows it too"


def test_sorted_by_a_number_that_the_filters_took_away() -> None:
    found = [column.key for column in table_columns(asked("kurtosis", token=5), ROWS)]
    assert found[2] == "kurtosis"


@pytest.mark.parametrize(("known", "sort", "shown"), [
    (0, "latent", False), (2, "latent", False), (3, "latent", True), (0, SCORE_SORT, True)])
def test_scores_have_a_column_where_more_than_half_are_known(known: int, sort: str, shown: bool) -> None:
    assert ("score" in keys(asked(sort, scores=dict.fromkeys(range(known), 0.5)))) is shown


@pytest.mark.parametrize(("sort", "main"), [("latent", "density"), (LABEL_SORT, "density"), ("max", "max")])
def test_a_phone_keeps_the_number_that_sorts(sort: str, main: str) -> None:
    assert [c.sort for c in table_columns(asked(sort), ROWS) if not c.extra] == ["latent", LABEL_SORT, main]


def test_every_sort_of_the_store_has_a_name() -> None:
    names = sort_names(asked(token=5, logit=6, scores={1: 0.5}))
    assert set(names) == {*SORTS, LABEL_SORT, SCORE_SORT, LOGIT_SORT}
    assert names[LABEL_SORT] == "label"
    assert not {"lift", LOGIT_SORT, SCORE_SORT} & set(sort_names(asked()))


def test_chosen_columns_come_in_their_order_and_on_a_phone_too() -> None:
    found = table_columns(asked(), ROWS, ("l0", "density", "top"))
    assert [column.id for column in found] == ["latent", LABEL_SORT, "l0", "density", "top"]
    assert not any(column.extra for column in found)
    assert [c.id for c in table_columns(asked("max"), ROWS, ("l0",))][2:] == ["max", "l0"], "the sorted one stays"
    assert [c.id for c in table_columns(asked("lift", token=5), ROWS, ("l0",))][2:] == ["lift", "token", "l0"]


def test_what_may_be_chosen_is_what_an_address_accepts() -> None:
    assert set(CHOOSABLE) == COLUMNS
    one = row(0)
    for column in CHOOSABLE.values():
        assert column.id in ("top", SCORE_SORT) or column.value is not None
        assert column.value is None or column.number(one) == column.value(one)
