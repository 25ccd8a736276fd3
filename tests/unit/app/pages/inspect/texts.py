"""The SAEs and the text of the inspector's tests, and how they store an inspection."""

from __future__ import annotations

import re
from html import unescape

from fastapi.testclient import TestClient

SAE, OTHER = "demo/2-one", "demo/2-other"
HTMX = {"HX-Request": "true"}
TEXT = "def caf\u00e9(self):\n    return <b>&amp;"


def words_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


def stored(browser: TestClient, **fields: str) -> str:
    answer = browser.post("/inspect", data={"text": TEXT, "sae": SAE, **fields})
    assert answer.status_code == 303, words_of(answer.text)
    return str(answer.headers["location"])
