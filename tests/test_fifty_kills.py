"""Fifty kills at random moments while an SAE is trained, evaluated, indexed, browsed and steered.

Nothing that was finished is lost, and the rest equals, bit for bit, what undisturbed servers make.  The seed of the
moments is printed.  `SAESCOPE_TEST_KILLS=<seed>,<kills>` sets it and their number.

The test takes little time because runs are forked (tests/forked_runs.py) and save often, and because servers wait less
for each other than they usually do.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file

from sae.store.build import Build
from sae.workspace.paths import Workspace
from tests import postgres
from tests.forked_runs import ForkServer
from tests.servers import RunningServer, kill_each, make_token, nothing_left, processes, start
from tests.unit.sae.index.test_scan import everything

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]

SEED, _, _kills = os.environ.get("SAESCOPE_TEST_KILLS", "").partition(",")
KILLS = {  # of each victim in each stage
    "train": {"run": 8, "page worker": 3, "supervisor": 2, "server": 1},
    "evaluate": {"run": 4, "page worker": 2, "supervisor": 1, "server": 2},
    "index": {"run": 6, "page worker": 2, "supervisor": 1, "server": 1},
    "browse and steer": {"worker": 6, "page worker": 9, "supervisor": 1, "server": 1}}
ALL = sum(sum(victims.values()) for victims in KILLS.values())
SHARE = min(1.0, int(_kills or ALL) / ALL)
MATURE_S = 2.0  # a run of this age may always be killed
PATIENCE_S = 900.0  # that a server may take to start again on a busy machine
SAE = "demo/2-res-batchtopk-256"
TRAIN = {"n_latents": 256, "k": 8, "context_length": 32, "tokens": 20_000, "batch_tokens": 256, "buffer_tokens": 4096,
         "eval_tokens": 1000, "ce_tokens": 256, "index_tokens": 20_000, "top_contexts": 4, "device": "cpu"}
EVALUATE = {"sae": SAE, "eval_tokens": 2000, "ce_tokens": 256, "device": "cpu"}
INDEX = {"sae": SAE, "index_tokens": 30_000, "top_contexts": 4, "device": "cpu"}
SERVE = "from tests.test_fifty_kills import serve; serve()"


def serve() -> None:
    """Be `saescope serve`, with runs that are forked, and with shorter waits for whatever has ended."""
    from app import main as program
    from app.cli import main
    from app.page_workers import pool
    from app.servers import presence
    from tests.forked_runs import ForkLauncher

    program.LocalLauncher = ForkLauncher  # type: ignore[misc]
    presence.BEAT_S, presence.ALIVE_S, presence.MARGIN_S = 0.3, 2.0, 0.6
    pool._RESTART_S = 0.1
    main()


class Team:
    """Servers of one workspace, and a client that goes on at another one, or later, when one does not answer."""

    def __init__(self, home: Path, token: str, url: str, n: int) -> None:
        self.home, self.forks = home, ForkServer(home)
        self._start = partial(start, home, token, url, program=SERVE, SAESCOPE_PAGE_WORKERS=str(2 // n))
        self.servers = [self._start() for _ in range(n)]
        self._turn = 0

    def close(self) -> None:
        self.forks.close()

    def leader(self) -> int:
        """Return the number of the server that supervises, or 0 while there is none."""
        def leads(server: RunningServer) -> bool:
            with suppress(httpx.TransportError):
                return server.leads()
            return False

        return next((number for number, server in enumerate(self.servers) if leads(server)), 0)

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
            time.sleep(0.1)
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
    """A thread that kills what a stage names, in random order and at random moments."""

    def __init__(self, team: Team, seed: int) -> None:
        self._team, self._random = team, random.Random(seed)
        self.kills: Counter[str] = Counter()
        self._stage, self._left, self._began = "", list[str](), time.monotonic()
        self._fault: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Kill nothing more."""
        self._ended.set()
        self._thread.join()

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[], bool]]:
        """Kill during the block, which repeats what it does until the function says that all is killed.

        What a block leaves is for the next one.
        """
        victims = [victim for victim, n in KILLS[name].items() for _ in range(n)]
        self._random.shuffle(victims)
        self._left += victims[: round(SHARE * len(victims))]
        self._stage = name
        yield self._done
        self._stage = ""
        assert self._fault is None, self._fault

    def _done(self) -> bool:
        assert self._fault is None, self._fault
        return not self._left

    def _run(self) -> None:
        try:
            while not self._ended.wait(self._random.uniform(0.1, 2.0)):
                stage = self._stage
                victims = dict.fromkeys(self._left) if stage else ()
                victim = next((one for one in victims if self._kill(one)), None)
                if victim is not None:
                    self.kills[f"{victim} ({stage})"] += 1
                    print(f"{time.monotonic() - self._began:.0f} s: {victim} ({stage})", flush=True)
                    self._left.remove(victim)
        except BaseException as fault:
            self._fault = fault

    def _kill(self, victim: str) -> bool:
        """Kill one; return False if there is none now."""
        if victim in ("server", "supervisor"):
            leader, n = self._team.leader(), len(self._team.servers)
            self._team.restart(leader if victim == "supervisor" else (leader + 1) % n)
            return True
        marks = {"worker": "app.worker.server", "page worker": "app.page_workers.process"}
        if victim == "run":  # some while they start, and others in the middle of their work
            found = self._team.forks.runs(self._random.uniform(0, MATURE_S))
        else:
            found = processes(self._team.home, marks[victim])
        return bool(found) and kill_each([self._random.choice(sorted(found, key=lambda one: one.pid))]) > 0


def journey(team: Team, text: Path, killer: Killer | None) -> dict[str, Any]:
    """Train, evaluate, index, browse and steer; return everything that was made."""
    stage = killer.stage if killer else _quiet
    workspace = Workspace(team.home)
    made: dict[str, Any] = {}
    with stage("train"):
        team.run("train", {**TRAIN, "text": str(text)})
        weights = load_file(workspace.sae(SAE) / "sae.safetensors")
        made["weights"] = {name: tensor.numpy().tobytes() for name, tensor in weights.items()}
        made["built"] = _newest(workspace)
    with stage("evaluate"):
        team.run("evaluate", EVALUATE)
        made["evaluation"] = _values(workspace)
    with stage("index") as done:
        team.run("index", INDEX)
        made["index"], n_builds = _newest(workspace), 2
        while not done():
            team.run("index", INDEX)
            assert _newest(workspace) == made["index"], "an index depends on the kills"
            n_builds += 1
    assert len(workspace.build_ids(SAE)) == n_builds
    latent = _strongest(workspace)
    with stage("browse and steer") as done:
        made["texts"] = _browse_and_steer(team, latent, done)
    made["runs"] = {(run["kind"], run["state"]) for run in team.json("/api/runs")}
    return made


def _browse_and_steer(team: Team, latent: int, done: Callable[[], bool]) -> dict[int, dict[str, str]]:
    """Steer with two seeds, and read four pages at once, until it is done; return the texts by their seed."""
    texts, seen = dict[int, dict[str, str]](), dict[str, dict[str, str]]()
    pages = [f"/{SAE}", f"/{SAE}/{latent}", f"/{SAE}/latents", f"/{SAE}/{latent}.json"]
    numbers = set[str]()
    with ThreadPoolExecutor(len(pages)) as readers:
        while len(seen) < 2 or not done():
            seed = len(seen) % 2
            run_id, got = team.text(seed, latent)
            assert texts.setdefault(seed, got) == got, "a text depends on the kills"
            seen[run_id] = got
            answers = list(readers.map(partial(team.ask, "GET"), pages))
            assert [answer.status_code for answer in answers] == [200] * len(pages), answers
            numbers.add(answers[-1].text)
    assert len(numbers) == 1, "a latent's numbers depend on the kills"
    for run_id, got in seen.items():
        assert team.json(f"/api/steer/{run_id}")["text"] == got, "a finished text was lost"
    return texts


@contextmanager
def _quiet(name: str) -> Iterator[Callable[[], bool]]:
    yield lambda: True


def _newest(workspace: Workspace) -> dict[str, Any]:
    """Return everything in the newest build but its name and its run's."""
    made = everything(workspace.build(SAE, workspace.build_ids(SAE)[-1]))
    return made | {"meta": [row for row in made["meta"] if row[0] not in ("build_id", "run")]}


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
    with nothing_left(home), closing(Team(home, make_token(home), "", 1)) as team:
        return journey(team, text, None)


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
    assert kills.total() == sum(round(SHARE * sum(victims.values())) for victims in KILLS.values())
    for name, value in undisturbed.items():
        assert disturbed[name] == value, f"{name} differs (seed {seed})"


def _disturbed(home: Path, url: str, n: int, text: Path, seed: int) -> tuple[dict[str, Any], Counter[str]]:
    with closing(Team(home, make_token(home, url), url, n)) as team, closing(Killer(team, seed)) as killer:
        return journey(team, text, killer), killer.kills

