"""Tests of the API's description: every operation is described, and its examples are what it accepts."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.pages.api.inspect import InspectIn
from app.pages.api.saes import LabelIn
from app.pages.api.steer import SteerIn
from app.pages.runs.api import GROUPS, examples_of


def operations(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{method} {path}", operation) for path, methods in schema["paths"].items()
            for method, operation in methods.items() if path.startswith("/api/")]


def test_every_operation_has_a_summary_and_a_tag(client: TestClient) -> None:
    found = operations(client.get("/openapi.json").json())
    assert len(found) > 20
    assert [name for name, operation in found if not operation.get("summary") or not operation.get("tags")] == []


def test_bodies_and_free_answers_have_examples(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    for name, operation in operations(schema):
        if "requestBody" in operation:
            assert examples_of(schema["components"]["schemas"], operation), name


@pytest.mark.parametrize("kind", [SteerIn, InspectIn, LabelIn])
def test_examples_are_accepted(kind: Any) -> None:
    examples = kind.model_config["json_schema_extra"]["examples"]
    assert examples
    for example in examples:
        kind.model_validate(example)


def test_the_page_shows_tokens_and_examples(client: TestClient) -> None:
    page = client.get("/api/docs").text
    assert "Authorization: Bearer TOKEN" in page
    assert "POST /api/steer" in page
    assert "lift 44.2" in page
    for tag in GROUPS:
        assert f'<a href="#{tag}">' in page, tag
        assert page.count(f'id="{tag}"') == 1, tag
