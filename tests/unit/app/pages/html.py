"""Pages as the tests of several packages read them; every page that is asked for is checked for its HTML."""

from __future__ import annotations

import re
from typing import Any

from fastapi.testclient import TestClient

VOID = {"meta", "link", "input", "br", "hr", "img", "path", "col"}


# A comment, or a tag: its end slash, its name, its attributes.  `HTMLParser` takes ten times as long.
_TAG = re.compile(r"""<!--.*?-->|<(/?)([a-zA-Z][^\s/>]*)((?:[^>"']|"[^"]*"|'[^']*')*)>""", re.DOTALL)
_ATTRIBUTE = re.compile(r"""([^\s=/"']+)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s"']+))?""")


def faults_of(html: str) -> list[str]:
    """Return what a page must not hold: unclosed tags, inline style or script, doubled ids."""
    faults, ids, still_open = list[str](), list[str](), list[str]()
    for end, name, rest in _TAG.findall(html):
        if not name:
            continue
        tag = name.lower()
        if end:
            if not still_open or still_open.pop() != tag:
                faults.append(f"</{tag}> does not close what is open")
            continue
        values = {key.lower(): value.strip("\"'") for key, value in _ATTRIBUTE.findall(rest)}
        if "style" in values or any(key.startswith("on") for key in values):
            faults.append(f"inline style or handler on <{tag}>")
        if tag == "script" and not values.get("src"):
            faults.append("inline script")
        if values.get("id"):
            ids.append(values["id"])
        if tag not in VOID and not rest.endswith("/"):
            still_open.append(tag)
    return [*faults, *(f"<{tag}> is not closed" for tag in still_open),
            *(f"id {one} stands twice" for one in set(ids) if ids.count(one) > 1)]


def page(client: TestClient, url: str, status: int = 200, **headers: str) -> str:
    response = client.get(url, headers=headers)
    assert response.status_code == status, response.text[:500]
    assert faults_of(response.text) == []
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
