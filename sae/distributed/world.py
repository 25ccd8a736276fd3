"""The group of the processes that `torchrun` started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sae.distributed import ALONE, Group
from sae.distributed.select import global_batch_topk, global_row_topk
from sae.errors import UserError
from sae.kernels.codes import Codes

_TIMEOUT = timedelta(hours=2)  # a rank may wait for another's text, model or checkpoint
T = TypeVar("T")


class World(Group):
    """All ranks of torch.distributed, as replicas × shards.  Collective: every rank must construct it."""

    def __init__(self, shards: int = 1, all_ranks: dist.ProcessGroup | None = None) -> None:
        self._all = all_ranks  # None: the default process group of torch.distributed
        self.rank, self.world, self.shards = dist.get_rank(), dist.get_world_size(), shards
        grid = torch.arange(self.world).reshape(-1, shards)
        # Every rank must take part in creating every subgroup; it keeps the two that it belongs to.
        rows = [_new_group(row) for row in grid.tolist()] if 1 < shards < self.world else []
        columns = [_new_group(column) for column in grid.T.tolist()] if 1 < shards < self.world else []
        self._same_tokens = rows[self.replica] if rows else all_ranks
        self._same_latents = columns[self.shard] if columns else all_ranks

    def sum_tokens(self, tensor: Tensor) -> Tensor:
        if self.replicas > 1:
            dist.all_reduce(tensor, group=self._same_latents)
        return tensor

    def sum_latents(self, tensor: Tensor) -> Tensor:
        if self.shards > 1:
            dist.all_reduce(tensor, group=self._same_tokens)
        return tensor

    def sum_all(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor, group=self._all)
        return tensor

    def min_all(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN, group=self._all)
        return tensor

    def batch_topk(self, pre_BL: Tensor, n_keep: int) -> Codes:
        return global_batch_topk(pre_BL, n_keep, self)

    def row_topk(self, pre_BL: Tensor, k: int) -> Codes:
        return global_row_topk(pre_BL, k, self)

    def gather(self, tensor: Tensor) -> Sequence[Tensor]:
        return _gather(tensor, self.world, self._all)

    def gather_shards(self, tensor: Tensor) -> Sequence[Tensor]:
        return _gather(tensor, self.shards, self._same_tokens) if self.shards > 1 else [tensor]

    def gather_replicas(self, tensor: Tensor) -> Sequence[Tensor]:
        return _gather(tensor, self.replicas, self._same_latents) if self.replicas > 1 else [tensor]

    def agreed(self, *flags: bool) -> tuple[bool, ...]:
        shared = torch.tensor(flags, dtype=torch.int32)  # on the CPU, so that no device is waited for
        dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=self._all)
        return tuple(map(bool, shared.tolist()))

    def wait(self) -> None:
        self.agreed(False)

    def apart(self) -> World:
        return World(self.shards, _new_group())

    def from_main(self, value: T) -> T:
        holder = [value]
        dist.broadcast_object_list(holder, src=0, device=torch.device("cpu"))
        return holder[0]


def _new_group(ranks: list[int] | None = None) -> dist.ProcessGroup:
    group: Any = dist.new_group(ranks)  # torch's type includes the placeholder of ranks outside the group
    made: dist.ProcessGroup = group
    return made


def _gather(tensor: Tensor, size: int, group: dist.ProcessGroup | None) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(size)]
    dist.all_gather(parts, tensor.contiguous(), group=group)
    return parts


def open_world(shards: int, batch_tokens: int) -> Group:
    """Return the group of this process: the world of `torchrun`, or a single process without it.

    Raises UserError if the processes cannot be divided into so many shards (field `shards`), or the batch cannot be
    divided among them (field `batch_tokens`).
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world % shards:
        raise UserError(f"shards: {shards} do not divide the {world} processes of this run; start it with "
                        f"`torchrun --nproc-per-node {shards}`, or a multiple of it", "shards")
    if batch_tokens % (world // shards):
        raise UserError(f"batch_tokens: {batch_tokens} cannot be divided among {world // shards} processes "
                        f"({world} of this run / {shards} shards)", "batch_tokens")
    if world == 1:
        return ALONE
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_TIMEOUT)
    return World(shards)


def device_of(device: str) -> str:
    """Return the device for this process.  Several processes on one machine each take a GPU of their own."""
    if "LOCAL_RANK" in os.environ and device in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return device


def close_world() -> None:
    """Leave torch.distributed if this process has joined it."""
    if dist.is_initialized():
        dist.destroy_process_group()
