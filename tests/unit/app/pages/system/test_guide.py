"""The user guide: its pages, its links, and its search."""

from __future__ import annotations

import re
from html import unescape

from fastapi.testclient import TestClient

from app.pages.system.guide import chapters, search
from app.resources import GUIDE
from tests.unit.app.pages.html import page, text_of


def test_every_chapter_is_a_page_in_order(client: TestClient) -> None:
    names = list(chapters())
    assert len(names) > 7
    assert {path.stem for path in GUIDE.glob("*.md")} == set(names), "every file is a chapter"
    for i, name in enumerate(names):
        html = page(client, "/docs" if name == "index" else f"/docs/{name}")
        assert chapters()[name].title in text_of(html)
        assert ('rel="next"' in html) == (i + 1 < len(names))
    assert "no chapter" in client.get("/docs/nonsense").text
    assert client.get("/docs/nonsense").status_code == 404


def test_links_lead_to_chapters_and_anchors(client: TestClient) -> None:
    for name, document in chapters().items():
        for link in re.findall(r'href="(/docs/[^"]*)"', document.html):
            target, _, anchor = unescape(link).removeprefix("/docs/").partition("#")
            if target.endswith(".ipynb"):
                assert client.get(f"/docs/{target}").json()["nbformat"] == 4
                continue
            assert target in chapters(), f"{name} links to {link}"
            assert not anchor or anchor in {section.anchor for section in chapters()[target].sections}


def test_the_search_finds_sections(client: TestClient) -> None:
    hits = search("random control")
    assert (hits[0].chapter, hits[0].section.title) == ("steering", "Use the controls")
    assert search("") == search("zzzz") == []
    html = page(client, "/docs?q=random+control")
    assert 'href="/docs/steering#use-the-controls"' in html
    assert "No section contains" in page(client, "/docs?q=<b>zzzz")
    assert 'href="/docs"' in page(client, "/docs")
