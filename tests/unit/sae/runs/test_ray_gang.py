"""Tests of a training on several nodes with a stand-in for the package `ray`, whose nodes are threads."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sae.runs import ray_gang
from sae.runs.folder import RunFolder
from sae.runs.ray_gang import STOP, main, node_command, run_on_node

WAITS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)); print('up', flush=True); " \
        "time.sleep(60)"


class FakeRay:
    """The part of `ray` that is used, with a thread for each task."""

    def __init__(self, free_nodes: int) -> None:
        self.free_nodes, self.threads = free_nodes, ThreadPoolExecutor(8)
        self.bundles: list[dict[str, float]] = []
        self.strategy = ""
        self.options: list[dict[str, Any]] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def remote(work: Callable[..., Any]) -> Any:
            def options(**values: Any) -> Any:
                self.options.append(values)
                return SimpleNamespace(remote=lambda *given: self.threads.submit(work, *given))

            return SimpleNamespace(options=options)

        def placement_group(bundles: list[dict[str, float]], strategy: str) -> Any:
            self.bundles, self.strategy = bundles, strategy
            return SimpleNamespace(wait=lambda seconds: len(bundles) <= self.free_nodes)

        def get(found: Future[Any] | list[Future[Any]]) -> Any:
            return [one.result(60) for one in found] if isinstance(found, list) else found.result(60)

        modules = {name: ModuleType(name) for name in (
            "ray", "ray.util", "ray.util.placement_group", "ray.util.scheduling_strategies")}
        vars(modules["ray"]).update(init=lambda address: None, remote=remote, get=get, util=modules["ray.util"])
        vars(modules["ray.util"]).update(get_node_ip_address=lambda: "10.0.0.7")
        vars(modules["ray.util.placement_group"]).update(placement_group=placement_group)
        vars(modules["ray.util.scheduling_strategies"]).update(
            PlacementGroupSchedulingStrategy=lambda group, placement_group_bundle_index: placement_group_bundle_index)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(ray_gang, "_POLL_S", 0.01)
    folder = RunFolder(tmp_path / "train-1")
    folder.create("train", {})
    return folder


def test_each_node_gets_one_torchrun(folder: RunFolder) -> None:
    command = node_command(folder, 1, 2, 8, "10.0.0.7", 4000)
    assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=8", "--master-addr=10.0.0.7",
            "--master-port=4000"} <= set(command)
    assert command[-5:] == ["-m", "sae", "run", "--quiet", str(folder.path)]
    assert "--nproc-per-node=1" in node_command(folder, 0, 2, 0, "h", 1)


def test_the_nodes_run_together_on_what_was_reserved(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(free_nodes=3)
    ray.install(monkeypatch)
    heads: list[tuple[int, str]] = []

    def command(folder: RunFolder, node: int, nodes: int, gpus: int, head: str, port: int) -> list[str]:
        heads.append((node, f"{head}:{port}"))
        return [sys.executable, "-c", f"print('node', {node})"]

    monkeypatch.setattr(ray_gang, "node_command", command)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main([str(folder.path), "--nodes=3", "--gpus=2", "--cpus=4"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (ray.bundles, ray.strategy) == ([{"CPU": 4, "GPU": 2}] * 3, "STRICT_SPREAD")
    assert [one["scheduling_strategy"] for one in ray.options] == [0, 0, 1, 2]
    assert all(one["max_retries"] == 0 for one in ray.options), "the supervisor restarts the whole run"
    assert len({address for _, address in heads}) == 1
    assert sorted(folder.log.read_text().splitlines()) == ["node 0", "node 1", "node 2"]


def test_too_few_nodes(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    FakeRay(free_nodes=1).install(monkeypatch)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main([str(folder.path), "--nodes=2", "--gpus=0", "--cpus=1"]) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "no 2 nodes with 1 CPUs" in capsys.readouterr().err


def test_sigterm_reaches_every_node(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeRay(free_nodes=2).install(monkeypatch)
    monkeypatch.setattr(ray_gang, "node_command", lambda *_: [sys.executable, "-c", WAITS])

    def stop_when_up() -> None:
        deadline = time.monotonic() + 30
        while not folder.log.exists() or folder.log.read_text().count("up") < 2:
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop_when_up)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    try:
        assert main([str(folder.path), "--nodes=2", "--gpus=0", "--cpus=1"]) == 4
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)
    assert (folder.path / STOP).exists()


def test_the_exit_code_of_a_command(folder: RunFolder) -> None:
    assert run_on_node([sys.executable, "-c", "raise SystemExit(3)"], str(folder.path)) == 3
