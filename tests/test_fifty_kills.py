"""Fifty kills at random moments while an SAE is trained, evaluated, indexed, browsed and steered.

Nothing that was finished is lost, and the rest equals, bit for bit, what undisturbed servers make.  The seed of the
moments is printed.  `SAESCOPE_TEST_KILLS=<seed>,<kills>` sets it and their number.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file

from sae.runs.folder import RunFolder
from sae.store.build import Build
from sae.workspace.paths import Workspace
from tests import postgres
from tests.servers import kill_each, make_token, nothing_left, processes, start
from tests.unit.sae.index.test_scan import everything

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]

SEED, _, _kills = os.environ.get("SAESCOPE_TEST_KILLS", "").partition(",")
KILLS = int(_kills or 50)
PATIENCE_S = 900.0  # that a server may take to start again on a busy machine
SAE = "demo/2-res-batchtopk-256"
TRAIN = {"n_latents": 256, "k": 8, "context_length": 32, "tokens": 40_000, "batch_tokens": 256, "buffer_tokens": 4096,
         "eval_tokens": 1000, "ce_tokens": 256, "index_tokens": 20_000, "top_contexts": 4, "device": "cpu"}
EVALUATE = {"sae": SAE, "eval_tokens": 2000, "ce_tokens": 256, "device": "cpu"}
INDEX = {"sae": SAE, "index_tokens": 30_000, "top_contexts": 4, "device": "cpu"}
SERVE = "from tests.test_fifty_kills import serve; serve()"
RUN = "from tests.runs import save_often; save_often()"


def serve() -> None:
    """Be `saescope serve`, with runs that save often."""
    from app import main as program
    from app.cli import main
    from app.jobs.launchers.local import LocalLauncher

    def command(folder: RunFolder) -> list[str]:
        return [sys.executable, "-c", RUN, "run", str(folder.path)]

    program.LocalLauncher = partial(LocalLauncher, command=command)  # type: ignore[assignment, misc]
    main()


class Team:
    """Servers of one workspace, and a client that goes on at another one, or later, when one does not answer."""

    def __init__(self, home: Path, token: str, url: str, n: int) -> None:
        self.home, self._start = home, partial(start, home, token, url, program=SERVE, SAESCOPE_PAGE_WORKERS="2")
        self.servers = [self._start() for _ in range(n)]
        self._turn = 0

    def restart(self, number: int) -> None:
        self.servers[number].kill()  # its client may be in use in the other thread
        time.sleep(0.2)
        self.servers[number] = self._start()

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """Return an answer, after the servers that do not answer now or are not ready."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self._turn += 1
            client = self.servers[self._turn % len(self.servers)].client
            with suppress(httpx.TransportError):
                answer = client.request(method, path, json=body)
                if answer.status_code < 500:
                    return answer
                assert answer.status_code == 503, answer.text
            time.sleep(0.2)
        raise AssertionError(f"nobody answers {path}")

    def json(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.is_success, (path, answer.text)
        return answer.json()

    def run(self, kind: str, spec: dict[str, Any]) -> str:
        """Queue a run, once even if the answer is lost, and wait until it has succeeded."""
        def known() -> set[str]:
            return {run["id"] for run in self.json("/api/runs") if run["kind"] == kind}

        before, new = known(), set[str]()
        while not new:
            with suppress(httpx.TransportError):
                answer = self.servers[0].client.post("/api/runs", json={"kind": kind, "spec": spec})
                assert answer.status_code in (201, 503), answer.text
            new = known() - before
        (run_id,) = new
        while (run := self.json(f"/api/runs/{run_id}"))["state"] != "succeeded":
            if run["state"] == "failed":  # too many kills before it could save
                assert "vanished" in run["error"], run
                self.ask("POST", f"/runs/{run_id}/resume")
            assert run["state"] != "cancelled"
            time.sleep(0.2)
        return str(run_id)

    def text(self, seed: int, latent: int) -> tuple[str, dict[str, str]]:
        """Return the id and the texts of a steering run, which is started again if its server ended."""
        while True:
            answer = self.ask("POST", "/api/steer", {
                "prompt": "def main(", "latents": [{"sae": SAE, "latent": latent, "strength": 2.0}], "length": 60,
                "seed": seed})
            assert answer.status_code == 201, answer.text
            run_id = answer.json()["id"]
            while (run := self.json(f"/api/steer/{run_id}?wait=5"))["state"] in ("queued", "running"):
                pass
            if run["state"] == "succeeded":
                return run_id, run["text"]
            assert run["state"] in ("failed", "stopped"), run


class Killer:
    """A thread that kills something every few moments until it has killed `KILLS` times."""

    def __init__(self, team: Team, seed: int) -> None:
        self._team, self._random = team, random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stage, self._until = "", 0
        self._thread.start()

    @contextmanager
    def stage(self, name: str, kills: int) -> Iterator[Callable[[], bool]]:
        """Kill so often during this stage; the block repeats what it does until the function says that it may end."""
        self._stage, self._until = name, self.total + kills
        yield lambda: self._done()
        self._until = 0
        assert self.fault is None, self.fault

    @property
    def total(self) -> int:
        return self.kills.total()

    def _done(self) -> bool:
        assert self.fault is None, self.fault
        return self.total >= self._until

    def _run(self) -> None:
        try:
            while self.total < KILLS:
                time.sleep(self._random.uniform(0.5, 8.0))
                if self.total < self._until:
                    self._kill(self._random.choice(("server", "run", "run", "worker", "page worker", "page worker")))
        except BaseException as fault:
            self.fault = fault

    def _kill(self, victim: str) -> None:
        home = self._team.home
        if victim == "server":
            number = self._random.randrange(len(self._team.servers))
            self.kills[f"server ({self._stage})"] += 1
            self._team.restart(number)
            return
        mark = {"run": "save_often", "worker": "app.worker.server", "page worker": "app.page_workers.process"}[victim]
        found = sorted(processes(home, mark), key=lambda process: process.pid)
        if found and kill_each([self._random.choice(found)]):
            self.kills[f"{victim} ({self._stage})"] += 1


def journey(team: Team, text: Path, killer: Killer | None) -> dict[str, Any]:
    """Train, evaluate, index, browse and steer; return everything that was made."""
    stage = killer.stage if killer else _quiet
    workspace = Workspace(team.home)
    made: dict[str, Any] = {}
    with stage("train", KILLS * 3 // 10):
        team.run("train", {**TRAIN, "text": str(text)})
        weights = load_file(workspace.sae(SAE) / "sae.safetensors")
        made["weights"] = {name: tensor.numpy().tobytes() for name, tensor in weights.items()}
        made["built"] = everything(workspace.build(SAE, workspace.build_ids(SAE)[-1]))
    with stage("evaluate", KILLS * 2 // 10):
        team.run("evaluate", EVALUATE)
        made["evaluation"] = _values(workspace)
    with stage("index", KILLS * 2 // 10):
        team.run("index", INDEX)
        made["index"] = everything(workspace.build(SAE, workspace.build_ids(SAE)[-1]))
    assert len(workspace.build_ids(SAE)) == 2
    latent = _strongest(workspace)
    left = KILLS - killer.total if killer else 0
    texts: dict[int, dict[str, str]] = {}
    seen: dict[str, dict[str, str]] = {}
    with stage("browse and steer", left) as done:
        pages = [f"/{SAE}", f"/{SAE}/{latent}", f"/{SAE}/latents", f"/{SAE}/{latent}.json"]
        turn = 0
        while turn < 2 or not done():
            seed = turn % 2
            run_id, got = team.text(seed, latent)
            assert texts.setdefault(seed, got) == got, "a text depends on the kills"
            seen[run_id] = got
            for page in pages:
                answer = team.ask("GET", page)
                assert answer.status_code == 200, answer.text
            turn += 1
    made["texts"] = texts
    for run_id, got in seen.items():
        assert team.json(f"/api/steer/{run_id}")["text"] == got, "a finished text was lost"
    made["runs"] = sorted((run["kind"], run["state"]) for run in team.json("/api/runs"))
    return made


@contextmanager
def _quiet(name: str, kills: int) -> Iterator[Callable[[], bool]]:
    yield lambda: True


def _values(workspace: Workspace) -> Any:
    stored = json.loads((workspace.sae(SAE) / "evaluation" / "core.json").read_text())
    passing = ("run", "build", "created", "seconds", "peak_bytes")
    return {name: value for name, value in stored.items() if name not in passing}


def _strongest(workspace: Workspace) -> int:
    build = Build.open(workspace.build(SAE, workspace.build_ids(SAE)[-1]))
    found = {number: latent.max_act for number in range(256) if (latent := build.latent(number))}
    build.close()
    return max(found, key=found.__getitem__)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(Path(json.__file__).read_text(encoding="utf-8") * 3, encoding="utf-8")
    return text


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, text: Path) -> dict[str, Any]:
    """Make everything once without a kill."""
    home = tmp_path_factory.mktemp("quiet") / "home"
    with nothing_left(home):
        return journey(Team(home, make_token(home), "", 1), text, None)


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_nothing_is_lost_and_the_rest_is_the_same(
    database: str, undisturbed: dict[str, Any], text: Path, tmp_path: Path
) -> None:
    if database == "postgres" and not postgres.available():
        pytest.skip("Postgres is not installed")
    seed = int(SEED or random.SystemRandom().randrange(10_000))
    print(f"seed {seed}", flush=True)
    home = tmp_path / "home"
    if database == "sqlite":
        with nothing_left(home):
            disturbed, kills = _disturbed(home, "", 1, text, seed)
    else:  # two servers, of which the one or the other is killed
        with postgres.cluster() as cluster, postgres.database(cluster) as url, nothing_left(home):
            disturbed, kills = _disturbed(home, url, 2, text, seed)
    print(f"{kills.total()} kills: {dict(sorted(kills.items()))}", flush=True)
    assert kills.total() >= KILLS
    for name, value in undisturbed.items():
        assert disturbed[name] == value, f"{name} differs (seed {seed})"


def _disturbed(home: Path, url: str, n: int, text: Path, seed: int) -> tuple[dict[str, Any], Counter[str]]:
    team = Team(home, make_token(home, url), url, n)
    killer = Killer(team, seed)
    return journey(team, text, killer), killer.kills

