"""Tests of the limits by user, which hold at all of a user's addresses together."""

from __future__ import annotations

from fastapi.testclient import TestClient

from app.access import accounts
from app.cli import server_config
from app.main import create_app
from app.settings import Settings


def test_a_user_has_one_limit_at_all_addresses(settings: Settings) -> None:
    behind = settings.model_copy(update={"trusted_proxies": "127.0.0.1", "steers_per_minute": 2})
    config = server_config(create_app(behind, supervise=False), behind)
    config.load()
    with TestClient(config.loaded_app, client=("127.0.0.1", 1), follow_redirects=False) as client:
        with config.app.state.sessions() as db:  # type: ignore[union-attr]
            cookies = {
                name: accounts.open_session(db, accounts.set_password(db, name, "correct horse"), behind)
                for name in ("ada", "eve")}

        def steer(name: str, address: int, path: str = "/steer") -> tuple[int, str]:
            client.cookies.set(accounts.COOKIE, cookies[name])
            answer = client.post(path, json={}, headers={"x-forwarded-for": f"203.0.113.{address}"})
            return answer.status_code, answer.text

        assert [steer("ada", i)[0] for i in (1, 2)] == [422, 422]
        status, text = steer("ada", 3)
        assert status == 429
        assert "Too many requests from your account; try again in" in text
        assert steer("ada", 4, "/api/steer")[0] == 429  # the API counts against the same limit
        assert steer("ada", 5, "/inspect")[0] != 429
        assert steer("eve", 6)[0] == 422
