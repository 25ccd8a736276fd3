"""Tests of the state of the latent table: the address, filters, labels and tokens."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

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
