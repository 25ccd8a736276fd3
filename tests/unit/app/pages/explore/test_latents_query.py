"""Tests of the state of the latent table: the address, filters, labels and tokens."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient
from starlette.datastructures import QueryParams

from app.db.engine import SessionFactory
from app.library import labels
from app.pages.explore.latents_query import ListQuery, resolve
from sae.store.build import Build
from tests.builds import Synthetic
from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.html import json_of, page


def test_search_by_token_in_the_table(browsable: TestClient, made: dict[str, Synthetic]) -> None:
    html = page(browsable, f"/{BATCH}/latents?token=self")
    token = int(re.search(r"\(id (\d+)", html)[1])  # type: ignore[index]
    acts = made[BATCH].acts[(made[BATCH].tokens.reshape(-1) == token)]
    body = json_of(browsable, f"/{BATCH}/latents.json?token=%23{token}")
    assert body["total"] == int((acts > 0).any(axis=0).sum())
    assert "No token contains" in page(browsable, f"/{BATCH}/latents?token=zzzznowhere")
    assert "No latent matches" in page(browsable, f"/{BATCH}/latents?flag=dead&flag=dense")


@pytest.mark.parametrize("query", ["sort=nonsense", "flag=nice", "density=7", "cursor=zzz", "sort=lift&cursor=x"])
def test_bad_queries_are_refused_by_name(browsable: TestClient, query: str) -> None:
    response = browsable.get(f"/{BATCH}/latents.json?{query}")
    assert response.status_code == 422
    assert response.json()["field"] in query


def test_filters_by_what_people_wrote(admin: TestClient, browsable: TestClient) -> None:
    path = f"/{BATCH}/latents.json"
    kept = browsable.get(f"{path}?tag=bracket").headers.get("etag", "")
    assert browsable.get(f"{path}?labelled=1").json()["total"] == 0
    assert admin.post(f"/{BATCH}/7/label", data={"text": "closes", "tags": "Bracket, code , code"}).status_code == 303
    assert [row["latent"] for row in browsable.get(f"{path}?labelled=1").json()["latents"]] == [7]
    again = browsable.get(f"{path}?tag=code", headers={"If-None-Match": kept})  # not the build's alone: never 304
    assert [row["latent"] for row in again.json()["latents"]] == [7]
    page = browsable.get(f"/{BATCH}/latents").text
    assert "tag=Bracket" in page
    assert "tag=code" in page


def test_the_table_by_label(admin: TestClient, browsable: TestClient) -> None:
    assert browsable.get(f"/{BATCH}/latents.json?sort=label").json()["sort"] == "latent"  # there is none yet
    for latent, text in ((90, "beta"), (4, "Alpha"), (12, "gamma")):
        admin.post(f"/{BATCH}/{latent}/label", data={"text": text})

    def first(query: str) -> list[int]:
        rows = browsable.get(f"/{BATCH}/latents.json?sort=label{query}").json()["latents"]
        return [row["latent"] for row in rows[:4]]

    assert first("") == [4, 90, 12, 0]
    assert first("&dir=desc") == [12, 90, 4, 0]  # those without a label come last either way
    page = browsable.get(f"/{BATCH}/latents?sort=label").text
    assert 'aria-sort="ascending"' in page
    assert ">output score<" not in page
    after = browsable.get(f"/{BATCH}/90?sort=label").text
    assert f'rel="prev" href="/{BATCH}/4?' in after
    assert f'rel="next" href="/{BATCH}/12?' in after


def test_latents_by_the_logits_they_raise(browsable: TestClient, made: dict[str, Synthetic]) -> None:
    latent = browsable.get(f"/{BATCH}/9.json").json()["latent"]
    token = latent["logit_pos"][0][0]
    found = browsable.get(f"/{BATCH}/latents.json?logit=%23{token}&limit=1000").json()["latents"]
    assert 9 in [row["latent"] for row in found]
    assert all(token in row["logit_pos"] for row in found)
    assert "No token contains" in browsable.get(f"/{BATCH}/latents?logit=no-such-token-at-all").text


# ---- without a page


FULL = ListQuery("max", True, frozenset({"dense", "rare"}), "", "#5", "x y", "50%", True, "a&b", True)


def test_an_address_is_read_back() -> None:
    assert ListQuery.read(QueryParams(FULL.string().removeprefix("?"))) == FULL
    assert (ListQuery().string(), ListQuery().plus(cursor="a b")) == ("", "?cursor=a+b")
    assert ListQuery(sort="max").plus(limit=5) == "?sort=max&limit=5"
    assert ListQuery.read(QueryParams("flag=living&nonsense=1")) == ListQuery(flags=frozenset({"alive"}))
    assert len(ListQuery.read(QueryParams({"token": "x" * 999})).token) == 200


def test_a_filter_is_added_and_taken_away() -> None:
    one = ListQuery(flags=frozenset({"rare"}))
    assert one.toggled("dense") == "?flag=dense&flag=rare"
    assert one.toggled("rare") == ""


@pytest.mark.parametrize(("query", "sort", "address"), [
    (ListQuery(), "max", "?sort=max&dir=desc"), (ListQuery("max", True), "max", "?sort=max"),
    (ListQuery("max"), "max", "?sort=max&dir=desc"), (ListQuery("max", True), "density", "?sort=density&dir=desc"),
    (ListQuery(), "latent", "?sort=latent"), (ListQuery(), "label", "?sort=label")])
def test_a_head_sorts_the_largest_first_and_turns_round(query: ListQuery, sort: str, address: str) -> None:
    assert query.sorted_by(sort) == address


def test_what_depends_on_people_is_not_the_builds_alone() -> None:
    for query in (ListQuery(label="x"), ListQuery(labelled=True), ListQuery(tag="x"), ListQuery(starred=True),
                  ListQuery(sort="label")):
        assert query.of_people
    assert not ListQuery("max", flags=frozenset({"rare"}), token="self").of_people
    assert ListQuery("max", True).plain
    assert not ListQuery(token="self").plain


def test_values_that_do_not_exist_are_named_and_left_out() -> None:
    usable, faults = ListQuery("nonsense", flags=frozenset({"dense", "nice"}), density="7").usable()
    assert usable == ListQuery(flags=frozenset({"dense"}))
    assert [fault.partition(":")[0] for fault in faults] == ["flag", "density", "sort"]
    assert ListQuery("lift", flags=frozenset({"alive"}), density="1e-2").usable()[1] == []


def test_a_list_by_token_is_sorted_by_lift_unless_it_is_asked_otherwise(
    sessions: SessionFactory, build: Build
) -> None:
    with sessions() as db:
        token = resolve(ListQuery(token="self"), build, db, BATCH)
        assert (token.sort, token.descending) == ("lift", True)
        assert token.token == token.tokens[0].token
        assert resolve(ListQuery("max", token="self"), build, db, BATCH).sort == "max"
        assert resolve(ListQuery("lift", True), build, db, BATCH).sort == "latent", "without a token there is no lift"
        logit = resolve(ListQuery(logit="#5"), build, db, BATCH)
        assert (logit.sort, logit.filters.logit, logit.token) == ("logit", 5, None)
        nothing = resolve(ListQuery(token="zzzznowhere"), build, db, BATCH)
        assert (nothing.filters.among, nothing.sort) == (frozenset(), "latent")


def test_filters_of_people_meet(sessions: SessionFactory, build: Build) -> None:
    with sessions() as db:
        labels.save(db, BATCH, 3, "ada", text="beta", tags="code")
        labels.save(db, BATCH, 4, "ada", text="Alpha", tags="code")
        labels.save(db, BATCH, 5, "ada", note="beta")
        for query, among in ((ListQuery(label="BETA"), {3, 5}), (ListQuery(label="beta", starred=True), {3, 5}),
                             (ListQuery(labelled=True, starred=True), {3}), (ListQuery(tag="code"), {3, 4}),
                             (ListQuery(tag="none"), set()), (ListQuery(tag="code", token="zzzznowhere"), set())):
            assert resolve(query, build, db, BATCH, frozenset({3, 5})).filters.among == among, query
        assert resolve(ListQuery(), build, db, BATCH).filters.among is None
        by_label = resolve(ListQuery("label"), build, db, BATCH)
        assert (by_label.key, dict(by_label.filters.scores)) == ("score", {3: 1.0, 4: 0.0})
