"""Tests of the rows of the latent table: what each shows, escaped, and what is remembered."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from app.db.tables import Label
from app.library.explanations import Name
from app.pages.explore import latent_rows
from app.pages.explore.latent_rows import Written, rows_html
from app.pages.explore.latents_columns import CHOOSABLE, Column
from sae.store.build import Build
from sae.store.recent import Recent
from sae.store.records import Rule

SAE: Any = SimpleNamespace(id="demo/one")
COLUMNS = [Column("latent", "latent", "latent", extra=False), Column("text", "label", "", "", extra=False),
           CHOOSABLE["density"], CHOOSABLE["max"], CHOOSABLE["top"]]
NOTHING = Written({}, {}, frozenset(), {})


@pytest.fixture(autouse=True)
def _forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_rows, "_remembered", lambda _: Recent(9))


def row_html(
    build: Build, written: Written = NOTHING, token: int | None = None, query: str = "", **changes: Any,
) -> str:
    (row,) = build.some([2])
    return str(rows_html(build, SAE, [replace(row, **changes)], COLUMNS, token, written, query))


def test_a_row_links_to_its_latent_with_the_query(build: Build) -> None:
    html = row_html(build, query="?sort=max&dir=desc")
    assert html.count('="/demo/one/2?sort=max&amp;dir=desc"') == 2
    assert 'data-card="/inspect/card?sae=demo/one&amp;latent=2"' in html
    assert html.count("<td") == len(COLUMNS)
    assert html.count('class="tok"') >= 3
    assert '<span class="kwic text"' in html


def test_what_people_wrote_is_escaped_and_the_name_comes_before_the_label(build: Build) -> None:
    label = Label(text="<i>said</i>")
    html = row_html(build, Written({2: label}, {}, frozenset(), {}))
    assert '<b title="&lt;i&gt;said&lt;/i&gt;">&lt;i&gt;said' in html
    name = Name("a \"name\"", "model", 0.875, "detection")
    html = row_html(build, Written({2: label}, {2: name}, frozenset({2}), {}))
    assert 'title="a &#34;name&#34; (detection 0.88)"' in html
    assert "said" not in html
    assert html.index("★") < html.index("name")
    assert "★" not in row_html(build)


def test_only_a_good_rule_is_shown_and_a_token_without_a_context_is_named(build: Build) -> None:
    for f1, shown in ((0.6, True), (0.4, False)):
        assert ("A rule found by counting: precision" in row_html(
            build, rule=Rule("token", [5], None, f1, f1, f1))) == shown
        build._kept.pop((latent_rows._remembered,))
    assert "strongest context instead:" in row_html(build, token=10**6)
    assert "strongest context instead:" not in row_html(build)


def test_unknown_numbers_are_dashes(build: Build) -> None:
    html = row_html(build, density=None, max_act=None, flags=())
    assert html.count("–") >= 2
    assert "<svg" not in html


def test_a_latents_parts_are_made_once(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    first = row_html(build)
    monkeypatch.setattr(latent_rows, "kwic_html", None)
    assert row_html(build) == first
