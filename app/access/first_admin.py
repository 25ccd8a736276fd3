"""The first administrator: by a password in the settings, by the one-time link, or demanded before the start."""

from __future__ import annotations

from app.access import accounts
from app.db.clock import one_at_a_time
from app.db.engine import SessionFactory
from app.settings import Settings
from sae.errors import UserError

ADMIN = "admin"  # the user who gets the password in the settings


def first_link(factory: SessionFactory, settings: Settings, address: str) -> str | None:
    """Return the one-time link to print at the start, or None if there is an administrator with a password.

    If there is none, the administrator of the settings is made.  Raises UserError (field `HOST`) if there still is none
    and other machines can reach the program, because the first visitor with the link would own it.
    """
    with factory() as db:
        one_at_a_time(db, "first administrator")
        if accounts.has_admin(db):
            return None
        if settings.admin_password:
            try:
                accounts.set_password(db, ADMIN, settings.admin_password)
            except UserError as error:
                raise UserError(f"SAESCOPE_ADMIN_PASSWORD: {error}", "SAESCOPE_ADMIN_PASSWORD") from None
            return None
    if not settings.is_local:
        raise UserError(
            f"HOST: other machines can reach {settings.host}, and there is no administrator with a password yet; make "
            "one with 'saescope create-admin', or set SAESCOPE_ADMIN_PASSWORD", "HOST")
    return accounts.admin_link(factory, settings, address)
