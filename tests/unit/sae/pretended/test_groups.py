"""Training by several processes, each with its own pretended device, gives the weights of one CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae.distributed.world import World
from sae.training.trainer import SAETrainer
from tests.pretended import pretend
from tests.unit.sae.distributed.worlds import in_processes
from tests.unit.sae.pretended.steps import B, batches, trained, trainer_of

pytest.importorskip("triton", reason="Triton is not installed (pip install saescope[triton])")

RULES = ("batch_topk", "topk", "relu")
CASES = [*((rule, False) for rule in RULES), ("batch_topk", True)]  # the kernels of the others differ in one process
STEPS = 2


def on_devices() -> dict[str, Any]:
    """Return the whole weights after some steps, by rule and number of shards."""
    return {f"{rule}, {shards}, {triton}": trained_in(World(shards), rule, triton=triton)
            for rule, triton in CASES for shards in (1, 2)}


def trained_in(group: World, rule: str, *, triton: bool) -> dict[str, torch.Tensor]:
    with pretend("cuda", triton=triton):
        trainer = trainer_of(rule, f"cuda:{group.rank}", group=group)
        for y_BD in batches(STEPS):
            own = y_BD.view(group.replicas, B // group.replicas, -1)[group.replica]
            trainer.step(own.to(f"cuda:{group.rank}"), 0.01)
        return trainer.whole_tensors()


def test_two_devices_are_one_cpu(tmp_path: Path) -> None:
    expected: dict[str, SAETrainer] = {rule: trained(rule, "cpu", STEPS) for rule in RULES}
    for results in in_processes(on_devices, 2, tmp_path):
        assert len(results) == 2 * len(CASES)
        for name, tensors in results.items():
            for tensor, one in expected[name.partition(",")[0]].tensors().items():
                torch.testing.assert_close(tensors[tensor], one, rtol=1e-4, atol=1e-5, msg=lambda m: f"{name}: {m}")
