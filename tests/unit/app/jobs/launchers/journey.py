"""Runs whose work is divided, on a cluster and on this machine, and the comparison of their results."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.db.engine import SessionFactory
from app.db.tables import Run
from app.jobs import parts, queue
from app.jobs.places import Place
from app.jobs.supervisor import Supervisor
from sae.evaluation.results import read_results
from sae.runs.create import start
from sae.runs.folder import RunFolder
from sae.specs.registry import located, parse_spec
from sae.workspace.paths import Workspace
from tests import ROOT
from tests.chat_server import chat_server
from tests.unit.sae.explain.brain import brain
from tests.unit.sae.index.test_scan import everything
from tests.unit.sae.runs.test_explain_parts import lines

SAE = "demo/tiny"
TRAIN: dict[str, Any] = {
    "name": "tiny", "n_latents": 256, "k": 8, "context_length": 32, "tokens": 60_000, "batch_tokens": 256,
    "buffer_tokens": 8192, "eval_tokens": 2_000, "ce_tokens": 512, "index": False, "device": "cpu"}
INDEX: dict[str, Any] = {"sae": SAE, "index_tokens": 270_000, "top_contexts": 4, "device": "cpu"}  # five rounds
PAIR = "demo/tiny-topk-128-k8"  # one of the SAEs that the divided sweep trains
EVALUATE: dict[str, Any] = {"sae": PAIR, "measures": ["core", "recovery"], "eval_tokens": 2_000, "ce_tokens": 512,
                            "device": "cpu", "shards": 2}
EXPLAIN: dict[str, Any] = {"sae": PAIR, "latents": "densest:60", "explainer": "endpoint", "model": "stand-in",
                           "scorers": "detection", "concurrency": 1, "shards": 2}


def write_text(folder: Path) -> dict[str, Any]:
    """Write about 350,000 tokens of Python, and return the settings of a training on them."""
    folder.mkdir()
    size = 0
    for source in sorted(Path(os.__file__).parent.glob("*.py")):
        if size < 1_400_000:
            size += Path(shutil.copy(source, folder)).stat().st_size
    return {**TRAIN, "text": str(folder)}


class Journey:
    """Runs that are submitted to one launcher of a supervisor."""

    def __init__(self, watcher: Supervisor, sessions: SessionFactory, workspace: Workspace, launcher: str) -> None:
        self.watcher, self.sessions, self.workspace, self.launcher = watcher, sessions, workspace, launcher

    def go(self, kind: str, values: dict[str, Any], place: Place | None = None) -> str:
        spec = located(parse_spec(kind, values)).model_dump(mode="json")
        with self.sessions() as db:
            return queue.enqueue(
                db, self.workspace, kind, spec, place=place or Place(self.launcher)).id  # type: ignore[arg-type]

    def run(self, run_id: str) -> Run:
        with self.sessions() as db:
            run = db.get_one(Run, run_id)
        assert run.state not in ("failed", "cancelled"), (run.error, RunFolder(self.workspace.run(run_id)).log)
        return run

    def until(self, seen: Callable[[], bool], seconds: float = 900) -> None:
        deadline = time.monotonic() + seconds
        while not seen():
            assert time.monotonic() < deadline
            self.watcher.tick()
            time.sleep(0.1)

    def succeeded(self, run_id: str) -> bool:
        return self.run(run_id).state == "succeeded"


def assert_same_as_here(workspace: Workspace, train: dict[str, Any], here: Workspace) -> None:
    """Train and index on this machine in one part, and compare the weights and all rows."""
    for kind, values in (("train", train), ("index", INDEX)):
        folder = RunFolder(here.run(f"{kind}-here"))
        folder.create(kind, values)  # type: ignore[arg-type]
        _do_here(here, folder)
    weights = [(one.sae(SAE) / "sae.safetensors").read_bytes() for one in (workspace, here)]
    assert weights[0] == weights[1]
    there, alone = (everything(next(one.builds(SAE).glob("*.duckdb"))) for one in (workspace, here))
    for tables in (there, alone):
        tables["meta"] = [row for row in tables["meta"] if row[0] not in ("run", "command", "build_id")]
    assert there == alone


def assert_divided_same_as_here(journey: Journey, text: dict[str, Any], lose: Callable[[list[str]], None],
                                here: Workspace) -> None:
    """Do a sweep, an evaluation and explanations in two parts each, and compare their results with one process's.

    `lose` is called with the names of the parts, and ends the work of one of them in the middle.
    """
    sweep = {**text, "architecture": ["batch_topk", "topk"], "n_latents": [128], "k": [8], "parts": 2}
    with chat_server(brain) as server:
        runs: list[tuple[Any, dict[str, Any]]] = [
            ("sweep", sweep), ("evaluate", EVALUATE), ("index", {**INDEX, "sae": PAIR, "index_tokens": 100_000}),
            ("explain", {**EXPLAIN, "address": server.address})]
        for kind, values in runs:
            run_id = journey.go(kind, values)
            with journey.sessions() as db:
                names = parts.ids_of(db, run_id)
            if names:
                lose(names)
            journey.until(lambda: journey.succeeded(run_id))  # noqa: B023
            attempts = [journey.run(name).attempt for name in names]
            assert sum(attempts) == len(names) + bool(names), f"one part was begun twice: {kind} {attempts}"
            _do_here(here, start(kind, values, here))
    assert journey.workspace.sae_ids() == here.sae_ids()
    for sae_id in here.sae_ids():
        weights = [(home.sae(sae_id) / "sae.safetensors").read_bytes() for home in (journey.workspace, here)]
        assert weights[0] == weights[1]
    found = [[(one.measure, one.values, one.detail, one.anchors) for one in read_results(home.sae(PAIR))]
             for home in (journey.workspace, here)]
    assert found[0] == found[1]
    assert len(found[0]) == 2
    explained = [lines(home, PAIR) for home in (journey.workspace, here)]
    assert explained[0] == explained[1]
    assert len(explained[0]) > 60, "scores, too"


def _do_here(here: Workspace, folder: RunFolder) -> None:
    subprocess.run([sys.executable, "-m", "sae", "run", str(folder.path)], check=True, cwd=ROOT,
                   env={**os.environ, "OMP_NUM_THREADS": "1", "SAESCOPE_HOME": str(here.root)},
                   stdout=subprocess.DEVNULL)
