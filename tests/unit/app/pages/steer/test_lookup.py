"""Tests of the lookups of the steering form: latents, maxima, examples."""

from __future__ import annotations

import shutil
from pathlib import Path

from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.unit.app.conftest import write_sae
from tests.unit.app.pages.steer.lab import OTHER, SAE


def test_the_best_sae_is_the_first_choice_not_the_newest(home: Path) -> None:
    settings = Settings(home=home.parent / "choice", demo=False, database_url="")
    for sae_id, fvu, created in ((SAE, 0.1, 1e9), (OTHER, 0.5, 2e9)):
        write_sae(settings.workspace, sae_id, n_latents=60, metrics={"fvu": fvu}, created=created)
        shutil.copytree(home / "builds" / sae_id, settings.home / "builds" / sae_id)
    with TestClient(create_app(settings, supervise=False)) as program:
        assert program.app.state.catalog.list_saes()[0].id == OTHER  # type: ignore[attr-defined]
        assert program.get("/steer.json").json()["latents"][0]["sae"] == SAE
        assert program.get("/inspect.json").json()["sae"] == SAE
