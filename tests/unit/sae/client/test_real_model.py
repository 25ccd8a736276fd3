"""Test of the client against a server with the embedded model and a small SAE."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import Settings
from sae.client import Client
from tests.builds import make_build
from tests.unit.conftest import TinySae
from tests.unit.sae.client.conftest import running

pytestmark = pytest.mark.slow


@pytest.mark.heavy
def test_activations_and_steering_agree_with_the_model(tmp_path: Path, tiny_sae: TinySae) -> None:
    settings = Settings(home=tmp_path, demo=False, database_url="")
    sae = tiny_sae()
    sae_id = str(sae.config["id"])
    sae.save(settings.workspace.sae(sae_id))
    path = settings.workspace.build(sae_id, "build-1")
    path.parent.mkdir(parents=True)
    make_build(path, sae_id=sae_id, n_latents=48)
    with running(settings) as app, Client(app.state.url) as client:
        every, other = client.activations(sae_id, ["def read(self):", "class A:"])
        latent = every.ranked[0].latent
        assert max(every.of(latent)[1:]) == pytest.approx(every.ranked[0].max, rel=1e-4)
        assert [token.l0 for token in every.tokens] == [
            every.positions.count(position) for position in range(len(every.tokens))]
        (alone,) = client.activations(sae_id, "class A:", latents=[latent])
        assert alone.of(latent) == pytest.approx(other.of(latent), rel=1e-4)
        run = client.steer([{"sae": sae_id, "latent": latent, "strength": 20}], "def main(", length=8, temperature=0)
        assert run.state == "succeeded"
        assert run.text["baseline"] != run.text["steered"]
