"""Tests of health, readiness and metrics."""

from __future__ import annotations

from fastapi.testclient import TestClient


def test_health_readiness_and_metrics(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["checks"] == {
        "database": "ok", "workspace": "ok", "disk": "ok", "worker": "ok", "supervisor": "ok"}
    client.get("/api/runs/none")
    measures = client.get("/metrics").text
    assert 'route="/api/runs/{run_id}",status="404"' in measures
    assert "saescope_saes 0.0" in measures
