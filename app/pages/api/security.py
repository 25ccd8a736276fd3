"""The security scheme of the API in its OpenAPI description."""

from __future__ import annotations

from fastapi import Security
from fastapi.security import HTTPBearer

# It only documents the header: `current_user`, on which every route depends, checks the token.
BEARER = Security(HTTPBearer(
    auto_error=False, scheme_name="API token",
    description="A token from your account's page.  Reading needs none."))
