"""Tests of the short names of browsers."""

from __future__ import annotations

import pytest

from app.access.browsers import browser_name

SAFARI = "Mozilla/5.0 (%s) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15"
CHROME = "Mozilla/5.0 (%s) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36"


@pytest.mark.parametrize(("agent", "name"), [
    (CHROME % "Windows NT 10.0", "Chrome on Windows"), (CHROME % "X11; Linux x86_64", "Chrome on Linux"),
    (CHROME % "Linux; Android 14", "Chrome on Android"), (CHROME % "X11; Linux" + " Edg/130.0", "Edge on Linux"),
    (CHROME % "X11; Linux" + " OPR/115.0", "Opera on Linux"),
    (SAFARI % "Macintosh; Intel Mac OS X 14", "Safari on macOS"),
    (SAFARI % "iPhone; CPU iPhone OS 18_0 like Mac OS X", "Safari on iPhone"), ("curl/8.5", "curl"),
    ("python-httpx/0.28", "a Python program"), ("Mozilla/5.0 (Windows)", "Windows"), ("", ""), ("\x00" * 9, "")])
def test_names_tell_sessions_apart(agent: str, name: str) -> None:
    assert browser_name(agent) == name
