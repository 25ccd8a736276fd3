"""A training on several nodes of a Ray cluster: `python -m sae.runs.ray_gang <folder> --nodes 2 --gpus 8 --cpus 16`.

It is the entry point of a Ray job, and needs the package `ray`, which is there on the nodes.  It reserves the same
resources on each of the nodes and starts one torchrun on each; the processes then find each other as they do without
Ray.  Ray moves no data and keeps no state: a run that lost a node resumes from its checkpoint as a new job.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from sae.errors import UserError
from sae.runs.folder import RunFolder

STOP = "stop"  # a file in the run's folder: the torchruns of all nodes get SIGTERM
_POLL_S = 0.5


def node_command(folder: RunFolder, node: int, nodes: int, gpus: int, head: str, port: int) -> list[str]:
    """Return the torchrun of one node, with a process for each GPU, or one process without GPUs."""
    return [
        sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--node-rank={node}",
        f"--nproc-per-node={max(1, gpus)}", f"--master-addr={head}", f"--master-port={port}", "--max-restarts=0",
        "-m", "sae", "run", "--quiet", str(folder.path)]


def run_on_node(command: list[str], folder: str) -> int:
    """Execute a command, with its output in the run's log, and return its exit code.

    A file `stop` in the run's folder ends it by SIGTERM, because Ray's own signal reaches the head's processes alone.
    """
    run, asked = RunFolder(Path(folder)), False
    with open(run.log, "ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    while process.poll() is None:
        if not asked and (run.path / STOP).exists():
            process.terminate()
            asked = True
        time.sleep(_POLL_S)
    return int(process.returncode)


def rendezvous() -> tuple[str, int]:
    """Return this node's address in the cluster and a free port."""
    with socket.socket() as one:
        one.bind(("", 0))
        return str(import_module("ray.util").get_node_ip_address()), int(one.getsockname()[1])


def train_together(folder: RunFolder, nodes: int, gpus: int, cpus: int) -> int:
    """Train on all nodes and return the exit code: 0 if all of them succeeded.

    Raises UserError (field `nodes`) if the cluster does not have that many nodes with these resources, or Ray is not
    installed.
    """
    try:
        ray = import_module("ray")  # by name, because it has types only where it is installed
    except ModuleNotFoundError:
        raise UserError(f"nodes: {sys.executable} lacks the package ray, which a training on several nodes needs; "
                        "install it there with: pip install 'saescope[ray]'", "nodes") from None
    placement_group = import_module("ray.util.placement_group").placement_group
    strategy = import_module("ray.util.scheduling_strategies").PlacementGroupSchedulingStrategy

    ray.init(address="auto")
    resources = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
    group = placement_group([resources] * nodes, strategy="STRICT_SPREAD")
    if not group.wait(600):
        raise UserError(f"nodes: the cluster has no {nodes} nodes with {cpus} CPUs and {gpus} GPUs free", "nodes")

    def on(node: int, work: Callable[..., Any]) -> Any:
        place = strategy(group, placement_group_bundle_index=node)
        return ray.remote(work).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=0, scheduling_strategy=place).remote

    head, port = ray.get(on(0, rendezvous)())
    tasks = [on(node, run_on_node)(node_command(folder, node, nodes, gpus, head, port), str(folder.path))
             for node in range(nodes)]
    codes: list[int] = ray.get(tasks)
    return max(codes, key=abs)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, pass SIGTERM on to all nodes, and train."""
    parser = argparse.ArgumentParser(prog="sae.runs.ray_gang")
    parser.add_argument("folder", type=Path)
    for name in ("--nodes", "--gpus", "--cpus"):
        parser.add_argument(name, type=int, required=True)
    asked = parser.parse_args(arguments)
    folder = RunFolder(asked.folder)
    (folder.path / STOP).unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: (folder.path / STOP).touch())
    try:
        return train_together(folder, asked.nodes, asked.gpus, asked.cpus)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
