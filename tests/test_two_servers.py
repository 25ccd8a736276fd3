"""Two servers on one Postgres database: both do the same, and one is killed without anybody noticing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sae.store.build import Build
from sae.workspace.paths import Workspace
from tests import postgres
from tests.servers import RunningServer, make_token, nothing_left, processes, start, until

pytestmark = [
    pytest.mark.heavy, pytest.mark.timeout(1500),
    pytest.mark.skipif(not postgres.available(), reason="Postgres is not installed")]

TRAIN = {"n_latents": 256, "k": 8, "context_length": 32, "tokens": 40_000, "batch_tokens": 256, "buffer_tokens": 4096,
         "eval_tokens": 1000, "ce_tokens": 256, "index_tokens": 20_000, "top_contexts": 4, "device": "cpu"}
LONG = {**TRAIN, "tokens": 50_000_000, "name": "long"}
SAE = "demo/2-res-batchtopk-256"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RunningServer, RunningServer]]:
    """Two servers; the first one leads."""
    home = tmp_path / "home"
    with postgres.cluster() as cluster, postgres.database(cluster) as url, nothing_left(home):
        token = make_token(home, url)
        more = {"SAESCOPE_PAGE_WORKERS": "1"}
        yield start(home, token, url, **more), start(home, token, url, **more)


def strongest(workspace: Workspace) -> int:
    """Return the latent with the largest activation."""
    (name,) = workspace.build_ids(SAE)
    build = Build.open(workspace.build(SAE, name))
    found = {number: latent.max_act for number in range(256) if (latent := build.latent(number))}
    build.close()
    return max(found, key=found.__getitem__)


def steered(server: RunningServer, latent: int) -> str:
    return str(server.post("/api/steer", {
        "prompt": "def main(", "latents": [{"sae": SAE, "latent": latent, "strength": 2.0}], "length": 240,
        "seed": 7})["id"])


def events(server: RunningServer, run_id: str) -> Iterator[tuple[str, Any]]:
    with server.client.stream("GET", f"/api/steer/{run_id}/events") as answer:
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                yield name, json.loads(line[6:])


def test_the_servers_act_as_one(pair: tuple[RunningServer, RunningServer], tmp_path: Path) -> None:
    first, second = pair
    text = tmp_path / "text.txt"
    text.write_text(Path(json.__file__).read_text(encoding="utf-8") * 3, encoding="utf-8")
    assert (first.leads(), second.leads()) == (True, False)

    # A run started at the server that does not lead is executed, and both show what it made.
    run = second.post("/api/runs", {"kind": "train", "spec": {**TRAIN, "text": str(text)}})
    assert second.finished(f"/api/runs/{run['id']}")["state"] == "succeeded"
    assert [s["sae"] for s in first.json("/api/saes")] == [s["sae"] for s in second.json("/api/saes")]
    latent = strongest(Workspace(tmp_path / "home"))
    page = f"/{SAE}/{latent}"
    assert first.client.get(page).text == second.client.get(page).text

    # A run started at one is cancelled at the other.
    run = first.post("/api/runs", {"kind": "train", "spec": {**LONG, "text": str(text)}})
    until(lambda: second.json(f"/api/runs/{run['id']}")["state"] == "running")
    second.post(f"/api/runs/{run['id']}/cancel")
    assert first.finished(f"/api/runs/{run['id']}")["state"] == "cancelled"

    # A text that one writes is followed, and stopped, at the other.
    steer = steered(first, latent)
    growing = [data for name, data in events(second, steer) if name == "progress"]
    assert any(len(row["text"].get("steered", "")) > 0 for row in growing)
    whole = second.json(f"/api/steer/{steer}?wait=60")
    assert (whole["state"], len(whole["text"]["steered"]) > 0) == ("succeeded", True)
    assert first.json(f"/api/steer/{steer}") == whole
    steer = steered(second, latent)
    first.post(f"/api/steer/{steer}/stop")
    assert second.json(f"/api/steer/{steer}?wait=60")["state"] in ("stopped", "succeeded")

    # The leader is killed in the middle of a training and of a text.
    run = first.post("/api/runs", {"kind": "train", "spec": {**LONG, "name": "long-2", "text": str(text)}})
    until(lambda: second.json(f"/api/runs/{run['id']}")["state"] == "running")
    (before,) = processes(tmp_path / "home", "run", run["id"])
    steer = steered(first, latent)
    watching = events(second, steer)
    next(watching)
    killed = time.monotonic()
    first.kill()
    last = list(watching)[-1]
    assert last[0] == "done"
    assert (last[1]["state"], last[1]["text"]) == ("succeeded", whole["text"]), "the same seed gives the same text"
    until(second.leads, 20)
    assert time.monotonic() - killed < 60
    assert [p.pid for p in processes(tmp_path / "home", "run", run["id"])] == [before.pid], "it was never interrupted"
    second.post(f"/api/runs/{run['id']}/cancel")
    assert second.finished(f"/api/runs/{run['id']}")["state"] == "cancelled"
    assert second.client.get(page).is_success
