"""Tests of routers that look at their routes only for paths of theirs."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from starlette.routing import Match

from app.web.routing import match_by_first_segment


def test_answers_stay_as_they_are() -> None:
    own, any_path = APIRouter(), APIRouter()

    @own.get("/admin")
    @own.get("/admin/{name}")
    def admin(name: str = "") -> str:
        return f"admin {name}"

    @any_path.get("/{model}/{sae}")
    def page(model: str, sae: str) -> str:
        return f"{model}/{sae}"

    app = FastAPI()
    match_by_first_segment(own)
    match_by_first_segment(own)  # a second application with this router changes nothing
    match_by_first_segment(any_path)
    assert "matches" in vars(own)
    assert "matches" not in vars(any_path)
    app.include_router(own)
    app.include_router(any_path)
    client = TestClient(app)
    assert client.get("/admin").json() == "admin "
    assert client.get("/admin/x").json() == "admin x"
    assert client.get("/demo/x").json() == "demo/x"
    assert client.post("/admin/x").status_code == 405
    assert client.get("/administrator").status_code == 404
    assert client.get("/admin/x/y").status_code == 404
    assert own.matches({"type": "http", "method": "GET", "path": "/demo/x"}) == (Match.NONE, {})
