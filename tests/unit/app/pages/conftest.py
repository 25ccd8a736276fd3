"""An administrator before the program with its synthetic SAEs."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from app.access import accounts


@pytest.fixture
def boss(browsable: TestClient) -> TestClient:
    """The program with two SAEs, as the administrator ada sees it."""
    state = browsable.app.state  # type: ignore[attr-defined]
    with state.sessions() as db:
        user = accounts.set_password(db, "ada", "correct horse")
        browsable.cookies.set(accounts.COOKIE, accounts.open_session(db, user, state.settings))
    return browsable
