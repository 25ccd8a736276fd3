"""Tests of the list of a browser's earlier runs."""

from __future__ import annotations

from fastapi.testclient import TestClient

from tests.unit.app.pages.steer.lab import finished, made


def test_a_browser_finds_its_earlier_runs(browser: TestClient) -> None:
    browser.cookies.clear()
    assert "None yet" in browser.get("/steer/earlier").text
    first, second = made(browser, prompt="first <b>"), made(browser, "/steer/sweep", prompt="second", sweep="1 2")
    finished(browser, second)
    for listed in (browser.get("/steer/earlier").text, browser.get("/steer").text, browser.get(first).text):
        assert listed.index(f'href="{second}"') < listed.index(f'href="{first}"')
        assert "2 at 2 strengths" in listed
        assert "2 +3× max" in listed
        assert "first &lt;b&gt;" in listed
    cookie = browser.cookies.jar._cookies["testserver.local"]["/steer"]["saescope_steered"]  # type: ignore[attr-defined]
    assert cookie.path == "/steer"
    for made_up in ("steer-x.../../etc.%00.steer-none", "x" * 9000):
        assert "None yet" in browser.get("/steer/earlier", headers={"Cookie": f"saescope_steered={made_up}"}).text
    browser.cookies.clear()
    assert "None yet" in browser.get("/steer/earlier").text  # another browser sees none of them
