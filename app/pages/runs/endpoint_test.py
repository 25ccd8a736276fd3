"""The test of the connection to an endpoint that explains latents: the button in the form of such a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import Response

from app.pages.dependencies import admin_user
from app.web.templating import is_htmx, render
from sae.errors import UserError
from sae.explain.endpoint_settings import find_endpoint
from sae.explain.streaming import Connection, try_connection

router = APIRouter(prefix="/admin/explain", dependencies=[Depends(admin_user)], include_in_schema=False)


@dataclass(frozen=True)
class TestedEndpoint:
    """What came of the test: a connection, or the reason why there is none."""

    address: str = ""
    model: str = ""
    connection: Connection | None = None
    fault: str = ""

    @property
    def unknown(self) -> bool:
        """Return whether the endpoint lists its models, and not this one."""
        return bool(self.connection and self.connection.models and self.model not in self.connection.models)


@router.post("/connection")
def connection(
    request: Request, address: Annotated[str, Form()] = "", model: Annotated[str, Form()] = "",
) -> Response:
    """Ask the endpoint one short question, and say what its answer came with."""
    tested = _tested(address[:2000], model[:4096])
    name = "runs/_endpoint_test.html" if is_htmx(request) else "runs/endpoint_test.html"
    return render(request, name, section="admin", tested=tested)


def _tested(address: str, model: str) -> TestedEndpoint:
    try:
        endpoint = find_endpoint(address, model)
        return TestedEndpoint(endpoint.address, endpoint.model, try_connection(endpoint))
    except UserError as error:
        return TestedEndpoint(fault=str(error))
