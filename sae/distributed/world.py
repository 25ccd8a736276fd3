"""The group of the processes that `torchrun` has started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sae.distributed import ALONE, Group
from sae.distributed.select import global_batch_topk, global_row_topk
from sae.errors import UserError
from sae.kernels.codes import Codes

_TIMEOUT = timedelta(minutes=30)  # a rank may wait for another's text, model or checkpoint
T = TypeVar("T")


class World(Group):
    """All ranks of torch.distributed, as replicas × shards.  Collective: every rank makes its own."""

    def __init__(self, shards: int = 1) -> None:
        self.rank, self.world, self.shards = dist.get_rank(), dist.get_world_size(), shards
        grid = torch.arange(self.world).reshape(-1, shards)
        # Every rank takes part in the making of every subgroup, and keeps the two that it is in.
        rows = [dist.new_group(row) for row in grid.tolist()] if 1 < shards < self.world else []
        columns = [dist.new_group(column) for column in grid.T.tolist()] if 1 < shards < self.world else []
        self._same_tokens = rows[self.replica] if rows else None  # None: all of them
        self._same_latents = columns[self.shard] if columns else None

    def sum_tokens(self, tensor: Tensor) -> Tensor:
        if self.replicas > 1:
            dist.all_reduce(tensor, group=self._same_latents)
        return tensor

    def sum_latents(self, tensor: Tensor) -> Tensor:
        if self.shards > 1:
            dist.all_reduce(tensor, group=self._same_tokens)
        return tensor

    def sum_all(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def min_all(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
        return tensor

    def batch_topk(self, pre_BL: Tensor, n_keep: int) -> Codes:
        return global_batch_topk(pre_BL, n_keep, self)

    def row_topk(self, pre_BL: Tensor, k: int) -> Codes:
        return global_row_topk(pre_BL, k, self)

    def gather(self, tensor: Tensor) -> Sequence[Tensor]:
        return _gather(tensor, self.world, None)

    def gather_shards(self, tensor: Tensor) -> Sequence[Tensor]:
        return _gather(tensor, self.shards, self._same_tokens) if self.shards > 1 else [tensor]

    def gather_replicas(self, tensor: Tensor) -> Sequence[Tensor]:
        return _gather(tensor, self.replicas, self._same_latents) if self.replicas > 1 else [tensor]

    def any(self, flag: bool) -> bool:
        set_ = torch.tensor([int(flag)])
        dist.all_reduce(set_, op=dist.ReduceOp.MAX)
        return bool(set_)

    def from_main(self, value: T) -> T:
        holder = [value]
        dist.broadcast_object_list(holder, src=0, device=torch.device("cpu"))
        return holder[0]


def _gather(tensor: Tensor, size: int, group: dist.ProcessGroup | None) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(size)]
    dist.all_gather(parts, tensor.contiguous(), group=group)
    return parts


def open_world(shards: int = 1) -> Group:
    """The group of this process: of a `torchrun`'s, or alone where there is none.

    Raises UserError (field `shards`) where they do not divide the processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world % shards:
        raise UserError(f"shards: {shards} do not divide the {world} processes of this run; start it with "
                        f"`torchrun --nproc-per-node {shards}`, or a multiple of it", "shards")
    if world == 1:
        return ALONE
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_TIMEOUT)
    return World(shards)


def close_world() -> None:
    """Leave torch.distributed, where this process was in it."""
    if dist.is_initialized():
        dist.destroy_process_group()
