"""Tests of the inspector's form: its faults, its queries and its addresses."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.datastructures import ImmutableMultiDict

from app.pages.inspect.form import DisplayOptions, InspectionQuery, InspectionUrl, form_of, read_form
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.inspect.texts import HTMX, OTHER, SAE


@pytest.mark.parametrize(("changes", "at", "words"), [
    ({"text": "  \n"}, "text", "type or paste"),
    ({"text": "x" * 20_001}, "text", "at most"),
    ({"text": "x = 1\n" * 1500}, "text", "tokens with BOS"),
    ({"sae": "demo/none"}, "sae", "there is no SAE"),
    ({"sae": ""}, "sae", "choose an SAE"),
    ({"with": SAE}, "with", "the same SAE"),
    ({"with": OTHER, "text2": "y"}, "with", "two texts"),
])
def test_a_fault_is_told_at_its_field_and_nothing_is_lost(
    browser: TestClient, worker: FakeWorker, changes: dict[str, Any], at: str, words: str,
) -> None:
    typed = {"text": "kept = 1", "sae": SAE, **changes}
    answer = browser.post("/inspect", data=typed, headers={"Accept": "application/json"})
    assert answer.status_code == 422
    assert words in answer.json()["errors"][at]
    page = browser.post("/inspect", data=typed)
    assert page.status_code == 422
    assert f'id="{at}-error"' in page.text
    assert typed["text"].strip()[:50] in page.text
    fragment = browser.post("/inspect", data=typed, headers=HTMX)
    assert fragment.headers["HX-Retarget"] == "#inspect-form"
    assert "<html" not in fragment.text
    assert not worker.asked


# ---- without a page


QUERY = InspectionQuery(("first", "second"), (SAE,))


def test_the_same_texts_have_one_address() -> None:
    assert QUERY.id == InspectionQuery.of(json.loads(json.dumps(QUERY.json()))).id
    others = [InspectionQuery(("second", "first"), (SAE,)), InspectionQuery(("first",), (SAE,)),
              InspectionQuery(("first", "second"), (OTHER,))]
    assert len({QUERY.id, *(one.id for one in others)}) == 4
    assert re.fullmatch(r"inspect-[0-9a-f]{16}", QUERY.id)


def test_a_query_fills_the_form_it_came_from() -> None:
    form = form_of(QUERY)
    assert (form.text, form.text2, form.sae, form.beside) == ("first", "second", SAE, "")
    two = form_of(InspectionQuery(("first",), (SAE, OTHER)))
    assert (two.text2, two.sae, two.beside) == ("", SAE, OTHER)
    read = read_form(ImmutableMultiDict([("text", "a\r\nb"), ("sae", SAE), ("with", OTHER)]))
    assert (read.text, read.text2, read.beside) == ("a\nb", "", OTHER)


@pytest.mark.parametrize(("query", "options"), [
    ({}, DisplayOptions()), ({"rank": "nonsense", "at": "-1", "of": "9", "dense": "yes"}, DisplayOptions(of=1)),
    ({"rank": "sum", "at": "3", "latent": "7", "dense": "1", "special": "1", "all": "1"},
     DisplayOptions("sum", True, True, 3, 7, 0, True))])
def test_options_are_read_and_what_is_invalid_is_ignored(query: dict[str, str], options: DisplayOptions) -> None:
    assert DisplayOptions.read(query) == options
    assert DisplayOptions.read(dict(options.pairs())) == options, "what is written is read back"


def test_addresses_keep_the_display_and_drop_defaults() -> None:
    stored = InspectionUrl(QUERY, True, DisplayOptions(rank="sum", at=3))
    assert stored.link() == f"/inspect/{QUERY.id}?rank=sum&at=3"
    assert stored.link(".json", rank="max", at=None) == f"/inspect/{QUERY.id}.json"
    assert stored.token_link(1) == f"/inspect/{QUERY.id}?rank=sum&of=1&at="
    typed = InspectionUrl(InspectionQuery(("a b&",), (SAE, OTHER)), False, DisplayOptions())
    assert typed.link() == "/inspect?text=a+b%26&sae=demo%2F2-one&with=demo%2F2-other"
    assert typed.token_link(0).endswith("&at=")
    assert InspectionUrl(QUERY, True, DisplayOptions()).token_link(0) == f"/inspect/{QUERY.id}?at="
