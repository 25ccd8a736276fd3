"""Tests of a steering run as its page shows it: pieces, columns, stored texts."""

from __future__ import annotations

import json

from fastapi.testclient import TestClient

from app.worker.protocol import Text
from tests.unit.app.pages.steer.lab import (
    SAE,
)


def test_a_run_of_an_older_program_is_still_shown(browser: TestClient) -> None:
    from app.db.tables import SteerRun

    asked = {"model": "demo", "prompt": "x", "interventions": [{"sae": SAE, "layer": 2, "latent": 1, "max_act": 1}]}
    text = {"ids": [300], "pieces": ["a"], "acts": [[0.5]], "finish": "length"}
    result = {"prompt": Text().model_dump(), "columns": {"baseline": text, "steered": text}, "tokens": 2, "seconds": 1}
    with browser.app.state.sessions() as db:  # type: ignore[attr-defined]
        db.add(SteerRun(id="steer-old", sae_id=SAE, state="succeeded", result=json.loads(json.dumps(result)),
                        request={"steer": asked, "saes": {}}))
        db.commit()
    assert "token for token" in browser.get("/steer/steer-old").text
