"""Tests of the inspector's form: its faults, its queries and its addresses."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

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
