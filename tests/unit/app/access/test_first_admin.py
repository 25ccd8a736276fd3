"""Tests of the first administrator, without whom the program does not listen on a public address."""

from __future__ import annotations

import pytest

from app.access.accounts import check_password, set_password
from app.access.first_admin import first_link
from app.cli import serve
from app.db.engine import SessionFactory
from app.settings import Settings
from sae.errors import UserError


def public(settings: Settings, **more: object) -> Settings:
    return settings.model_copy(update={"host": "0.0.0.0", **more})


def test_a_public_address_needs_an_administrator(sessions: SessionFactory, settings: Settings) -> None:
    assert first_link(sessions, settings, "http://x") is not None  # on this machine the link is enough
    with pytest.raises(UserError, match=r"HOST: .* 0\.0\.0\.0, and there is no administrator.*create-admin") as caught:
        first_link(sessions, public(settings), "http://x")
    assert (caught.value.field, "\n" in str(caught.value)) == ("HOST", False)
    with sessions() as db:
        set_password(db, "ada", "correct horse")
    assert first_link(sessions, public(settings), "http://x") is None


def test_the_settings_may_name_the_first_password(sessions: SessionFactory, settings: Settings) -> None:
    with pytest.raises(UserError, match="SAESCOPE_ADMIN_PASSWORD: password: use 8 to"):
        first_link(sessions, public(settings, admin_password="short"), "http://x")
    assert first_link(sessions, public(settings, admin_password="correct horse"), "http://x") is None
    assert first_link(sessions, public(settings, admin_password="another horse"), "http://x") is None
    with sessions() as db:
        user = check_password(db, "admin", "correct horse")
        assert user is not None
        assert user.is_admin


def test_serve_refuses_and_frees_what_it_took(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    if settings.database_url:
        pytest.skip("the command reads its database from the environment")
    monkeypatch.setattr("app.web.logs.configure", lambda form: None)
    for _ in range(2):  # the second time the lock is free
        with pytest.raises(UserError, match="HOST: other machines"):
            serve(host="0.0.0.0", port=0, home=settings.home, demo=False)
