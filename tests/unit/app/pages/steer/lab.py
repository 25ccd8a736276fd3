"""What the tests of the steering lab do again and again: fill the form in, run it, read the answers."""

from __future__ import annotations

import re
import time
from html import unescape
from typing import Any

from fastapi.testclient import TestClient
from httpx2 import Response

SAE, OTHER = "demo/2-one", "demo/1-other"
HTMX = {"HX-Request": "true"}
JSON = {"Accept": "application/json"}


def fields(**changes: Any) -> dict[str, Any]:
    return {"prompt": "def main(", "sae": SAE, "latent": "2", "mode": "add", "strength": "3", "target": "2",
            "factor": "0.5", "length": "8", "seed": "1", **changes}


def made(browser: TestClient, path: str = "/steer", **changes: Any) -> str:
    answer = browser.post(path, data=fields(**changes))
    assert answer.status_code == 303, words_of(answer.text)[-1500:]
    return str(answer.headers["location"])


def finished(browser: TestClient, place: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        run: dict[str, Any] = browser.get(f"{place}.json").json()
        if run["state"] in ("succeeded", "failed", "stopped"):
            return run
        assert time.monotonic() < deadline
        time.sleep(0.01)


def faults(browser: TestClient, path: str = "/steer", **changes: Any) -> dict[str, str]:
    answer: Response = browser.post(path, data=fields(**changes), headers=JSON)
    assert answer.status_code == 422, answer.text
    errors: dict[str, str] = answer.json()["errors"]
    page = browser.post(path, data=fields(**changes))
    assert page.status_code == 422
    fragment = browser.post(path, data=fields(**changes), headers=HTMX)
    assert (fragment.status_code, fragment.headers["HX-Retarget"]) == (422, "#steer-form")
    for name in errors:
        assert f'id="{name}-error"' in page.text, name
        assert f'id="{name}-error"' in fragment.text, name
    return errors


def events_of(browser: TestClient, place: str) -> list[tuple[str, str]]:
    out = []
    for block in browser.get(f"{place}/events").text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if name := next((line[7:] for line in lines if line.startswith("event: ")), None):
            out.append((name, "\n".join(line[6:] for line in lines if line.startswith("data: "))))
    return out


def words_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


def form_fields(page: str) -> dict[str, Any]:
    """What a browser would send of the page's form."""
    form = page[page.index('<form id="steer-form"'):]
    form = form[:form.index("</form>")]
    out: dict[str, Any] = {}
    for tag in re.findall(r"<input[^>]*>", form):
        found = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        if found.get("name") and (found.get("type") != "checkbox" or " checked" in tag):
            out.setdefault(found["name"], []).append(unescape(found.get("value", "")))
    for name, options in re.findall(r'<select[^>]*name="(\w+)"[^>]*>(.*?)</select>', form, re.S):
        out.setdefault(name, []).append(re.findall(r'value="([^"]*)" selected', options)[0])
    for name, text in re.findall(r'<textarea[^>]*name="(\w+)"[^>]*>\n(.*?)</textarea>', form, re.S):
        out.setdefault(name, []).append(unescape(text))
    out.pop("add", None)
    return out
