"""Everything that a form of the pages does can be done by a program: a table that a new form has to join."""

from __future__ import annotations

from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

import app.main
from app.access import tokens
from app.db.tables import User
from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.system.browsers import add_user

_LATENT, _SAE = "/api/saes/{model}/{name}/latents/{number}", "/api/saes/{model}/{name}"
_OF_A_LIST = "/api/lists/{list_id}/latents/{model}/{name}/{number}"
ACCOUNT = "no: an API token cannot change the account that it acts for"
REDRAWN = "no: it changes nothing, it only draws a part of the form"
FILES = "no: it is sent files, and an API token sends them to this address as the form does"

# Each form's address, and the call of the API that does the same, or the reason why there is none.
TABLE = {
    "/login": ACCOUNT,
    "/logout": ACCOUNT,
    "/account/password": ACCOUNT,
    "/account/sessions/end": ACCOUNT,
    "/account/tokens": ACCOUNT,
    "/account/tokens/revoke": ACCOUNT,
    "/admin/users/save": "POST /api/users",
    "/admin/users/{user_id}/password": "PUT /api/users/{user_id}/password",
    "/admin/users/{user_id}/role": "PUT /api/users/{user_id}/role",
    "/admin/users/{user_id}/sessions/end": "DELETE /api/users/{user_id}/sessions",
    "/admin/users/{user_id}/delete": "DELETE /api/users/{user_id}",
    "/admin/import": "POST /api/runs",
    "/admin/{kind}": "POST /api/runs",
    "/compare": "POST /api/runs",
    "/admin/explain/connection": REDRAWN,
    "/admin/published": FILES,
    "/admin/published/remove": "no: these results are only shown on pages, next to the forms that read them in",
    "/admin/saes/{model}/{name}/note": f"PATCH {_SAE}",
    "/admin/saes/{model}/{name}/rename": f"PATCH {_SAE}",
    "/admin/saes/{model}/{name}/delete": f"DELETE {_SAE}",
    "/runs/{run_id}/cancel": "POST /api/runs/{run_id}/cancel",
    "/runs/{run_id}/resume": "POST /api/runs/{run_id}/resume",
    "/runs/{run_id}/delete": "DELETE /api/runs/{run_id}",
    "/steer/form": REDRAWN,
    "/steer": "POST /api/steer",
    "/steer/sweep": "POST /api/steer",
    "/steer/{run_id}/stop": "POST /api/steer/{run_id}/stop",
    "/inspect": "POST /api/inspect",
    "/inspect/{model}/{name}/{number}": "POST /api/inspect",
    "/effects/{model}/{name}/scores": "POST /api/effects/{model}/{name}/scores",
    "/effects/{model}/{name}/{number}": "POST /api/effects/{model}/{name}/{number}",
    "/lists": "POST /api/lists",
    "/lists/{list_id}": "PATCH /api/lists/{list_id}",
    "/lists/{list_id}/latents": f"PUT {_OF_A_LIST}",
    "/lists/{list_id}/latents/remove": f"DELETE {_OF_A_LIST}",
    "/lists/{list_id}/delete": "DELETE /api/lists/{list_id}",
    "/{model}/{name}/labels": f"PUT {_SAE}/labels",
    "/{model}/{name}/explanations": f"POST {_SAE}/explanations",
    "/{model}/{name}/{number}/label": f"PUT {_LATENT}/label",
    "/{model}/{name}/{number}/star": f"PUT {_LATENT}/star",
    "/{model}/{name}/{number}/comments": f"POST {_LATENT}/comments",
    "/{model}/{name}/{number}/comments/{comment}/delete": f"DELETE {_LATENT}/comments/{{comment}}",
    "/{model}/{name}/{number}/explanations": f"POST {_LATENT}/explanations",
    "/{model}/{name}/{number}/explanations/ask": f"POST {_LATENT}/explanations/ask",
    # `choose` and `delete`
    "/{model}/{name}/{number}/explanations/{explanation}/{action}": f"DELETE {_LATENT}/explanations/{{explanation}}",
}


def test_every_form_has_a_call_of_the_api(client: TestClient) -> None:
    forms = {route.path for module in app.main._MODULES for route in module.router.routes
             if isinstance(route, APIRoute) and route.methods - {"GET", "HEAD"} and not route.path.startswith("/api/")}
    assert forms == set(TABLE), "add the new form here, with its call of the API or the reason why there is none"
    described = {f"{method.upper()} {path}" for path, methods in client.get("/openapi.json").json()["paths"].items()
                 for method in methods}
    assert {call for call in TABLE.values() if not call.startswith("no: ")} <= described


def _token(admin: TestClient, *scopes: str) -> dict[str, str]:
    """Return the header of a token of a new administrator."""
    number = add_user(admin, f"user-{'-'.join(scopes)}", "administrator")
    with admin.app.state.sessions() as db:  # type: ignore[attr-defined]
        secret = tokens.make_token(db, db.get_one(User, number), "t", scopes, None)
    return {"Authorization": f"Bearer {secret}"}


def test_a_token_sends_files_to_the_address_of_the_form(admin: TestClient) -> None:
    program = TestClient(admin.app, follow_redirects=False)
    found = {}
    for scope in ("write", "admin"):
        sent = {"files": ("results.json", b"{}", "application/json")}
        found[scope] = program.post("/admin/published", files=sent, headers=_token(admin, scope)).status_code
    assert found == {"write": 403, "admin": 422}  # 422: these results are none


def test_nothing_of_an_account_is_changed_by_a_token(browsable: TestClient, admin: TestClient) -> None:
    headers = _token(admin, "admin")
    program = TestClient(admin.app, follow_redirects=False)
    for path, reason in TABLE.items():
        if reason == ACCOUNT and path.startswith("/account/"):
            assert program.post(path, headers=headers).status_code == 403, path
    assert program.get(f"/api/saes/{BATCH}", headers=headers).status_code == 200
