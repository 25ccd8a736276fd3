"""Tests of passwords, sessions and the one-time link: each is valid exactly when it should be."""

from __future__ import annotations

import importlib.util
import time

import pytest
from sqlalchemy import select, update

from app.access import accounts
from app.db.engine import SessionFactory
from app.db.tables import LoginLink, LoginSession, User
from app.settings import Settings
from sae.errors import UserError


def test_password_opens_and_others_do_not(sessions: SessionFactory) -> None:
    with sessions() as db:
        accounts.set_password(db, "ada", "correct horse")
        user = accounts.check_password(db, " ada ", "correct horse")
        assert user is not None
        assert user.is_admin
        assert "correct" not in (user.password_hash or "")
        assert accounts.check_password(db, "ada", "wrong horse") is None
        assert accounts.check_password(db, "eve", "correct horse") is None


def test_a_new_password_ends_the_sessions(sessions: SessionFactory, settings: Settings) -> None:
    with sessions() as db:
        user = accounts.set_password(db, "ada", "correct horse")
        secret = accounts.open_session(db, user, settings)
        assert accounts.session_user(db, secret) is not None
        accounts.set_password(db, "ada", "battery staple")
        assert accounts.session_user(db, secret) is None


@pytest.mark.parametrize(("name", "password", "field"), [
    ("", "correct horse", "name"), ("a" * 81, "correct horse", "name"), ("a\nb", "correct horse", "name"),
    (accounts.LINK_USER, "correct horse", "name"), ("ada", "short", "password"), ("ada", "x" * 1001, "password"),
])
def test_unusable_users_are_refused(sessions: SessionFactory, name: str, password: str, field: str) -> None:
    with sessions() as db, pytest.raises(UserError) as caught:
        accounts.set_password(db, name, password)
    assert caught.value.field == field


def test_a_session_ends_by_time_and_by_signing_out(sessions: SessionFactory, settings: Settings) -> None:
    with sessions() as db:
        user = accounts.set_password(db, "ada", "correct horse")
        first, second = (accounts.open_session(db, user, settings) for _ in range(2))
        accounts.close_session(db, first)
        assert accounts.session_user(db, first) is None
        assert accounts.session_user(db, second) is not None
        db.execute(update(LoginSession).values(expires=time.time() - 1))
        db.commit()
        db.expire_all()
        assert accounts.session_user(db, second) is None


def test_secrets_are_not_in_the_database(sessions: SessionFactory, settings: Settings) -> None:
    with sessions() as db:
        user = accounts.set_password(db, "ada", "correct horse")
        secrets = [accounts.open_session(db, user, settings), accounts.make_login_link(db, settings)]
        stored = [*db.scalars(select(LoginSession.id)), *db.scalars(select(LoginLink.id))]
    assert len(stored) == 2
    assert not set(stored) & set(secrets)
    assert all(len(secret) >= 43 for secret in secrets)  # 256 bits in base64


def test_a_link_works_once(sessions: SessionFactory, settings: Settings) -> None:
    with sessions() as db:
        secret = accounts.make_login_link(db, settings)
        user = accounts.redeem_link(db, secret)
        assert user is not None
        assert user.is_admin
        assert accounts.redeem_link(db, secret) is None


def test_only_the_newest_link_works_and_only_in_time(sessions: SessionFactory, settings: Settings) -> None:
    with sessions() as db:
        old, new = accounts.make_login_link(db, settings), accounts.make_login_link(db, settings)
        assert accounts.redeem_link(db, old) is None
        db.execute(update(LoginLink).values(expires=time.time() - 1))
        db.commit()
        assert accounts.redeem_link(db, new) is None


def test_passwords_are_hashed_with_the_work_that_argon2_recommends() -> None:
    """The parameters are the second recommended option of RFC 9106, section 4."""
    spec = importlib.util.spec_from_file_location("fresh_accounts", accounts.__file__)  # the tests' hasher is quick
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh._nobody().startswith("$argon2id$v=19$m=65536,t=3,p=4$")


def test_links_are_printed_until_there_is_a_password(sessions: SessionFactory, settings: Settings) -> None:
    link = accounts.admin_link(sessions, settings, "http://here")
    assert link is not None
    with sessions() as db:
        assert accounts.redeem_link(db, link.partition("token=")[2]) is not None
        assert db.scalar(select(User.name)) == accounts.LINK_USER
    assert accounts.admin_link(sessions, settings, "http://here") is not None  # the browser may have lost its cookie
    with sessions() as db:
        accounts.set_password(db, "eve", "correct horse", admin=False)
    assert accounts.admin_link(sessions, settings, "http://here") is not None
    with sessions() as db:
        accounts.set_password(db, "ada", "correct horse")
    assert accounts.admin_link(sessions, settings, "http://here") is None
