"""Pages as the tests of several packages read them; every page that is asked for is checked for its HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from fastapi.testclient import TestClient

VOID = {"meta", "link", "input", "br", "hr", "img", "path", "col"}


class Checker(HTMLParser):
    """Notes what a page must not hold: unclosed tags, inline style or script, doubled ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if "style" in values or any(name.startswith("on") for name in values):
            self.faults.append(f"inline style or handler on <{tag}>")
        if tag == "script" and not values.get("src"):
            self.faults.append("inline script")
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> does not close what is open")


def page(client: TestClient, url: str, status: int = 200, **headers: str) -> str:
    response = client.get(url, headers=headers)
    assert response.status_code == status, response.text[:500]
    checker = Checker()
    checker.feed(response.text)
    assert checker.faults == []
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    return response.text


def json_of(client: TestClient, url: str) -> Any:
    response = client.get(url)
    assert response.status_code == 200
    return response.json()


def text_of(markup: str) -> str:
    return re.sub(r"<[^>]+>", "", markup)


def links(html: str) -> dict[str, str]:
    """The links of an error page below its message: address -> text."""
    return dict(re.findall('<a class="button" href="([^"]+)">([^<]+)</a>', html))
