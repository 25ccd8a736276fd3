"""Real gloo processes on the CPU, each running a function of a module that they can import."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.runs import CONTEXT


def in_processes(work: Callable[..., Any], world: int, folder: Path, *args: Any) -> list[Any]:
    """Return what `work(*args)` returned (tensors, numbers, lists, dicts) in every process of a world, by rank."""
    mp.start_processes(  # type: ignore[no-untyped-call]
        _process, (work, world, str(folder), args), nprocs=world, start_method=CONTEXT.get_start_method())
    return [torch.load(folder / f"result{rank}.pt", weights_only=True) for rank in range(world)]


def _process(rank: int, work: Callable[..., Any], world: int, folder: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(work(*args), Path(folder) / f"result{rank}.pt")
    dist.destroy_process_group()
