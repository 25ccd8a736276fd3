"""Users of the program, and browsers in which they are signed in."""

from __future__ import annotations

from fastapi.testclient import TestClient

from app.access import accounts

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36"


def add_user(client: TestClient, name: str, role: str = "editor") -> int:
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        return accounts.add_user(db, name, "correct horse", role).id


def sign_in(client: TestClient, name: str, password: str = "correct horse", **more: str) -> TestClient:
    """A browser of its own in which `name` is signed in."""
    browser = TestClient(client.app, follow_redirects=False, headers={"user-agent": CHROME})
    answer = browser.post("/login", data={"name": name, "password": password, **more})
    assert answer.status_code == 303
    browser.headers["x-landed"] = answer.headers["location"]
    return browser
