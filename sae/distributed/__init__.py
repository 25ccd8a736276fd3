"""Several processes that train one SAE: which part each holds, and the sums over them.

The world is a grid of replicas × shards, rank = replica · shards + shard:

    replica r   sees rows r·B/R … of the global batch        (data parallel)
    shard s     owns latents s·L/S … of W_enc, b_enc, W_dec   (latent parallel)

A latent's weights are the same on all replicas; b_dec is the same everywhere.  Each rank computes a partial sum from
its own tokens and its own latents.  A step therefore asks for sums over the other tokens or the other latents;
otherwise it is the step of a single process.

`Group` is a single process: every method is the identity and torch.distributed is not used. `sae.distributed.world`
makes the group of processes started by `torchrun`.

Shapes: B tokens of this replica, L latents of this shard, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from sae.kernels.codes import Codes
from sae.kernels.select import batch_topk, row_topk

T = TypeVar("T")


class Group:
    """The position of this process among all that train the same SAE.  In this base class it is the only one."""

    rank: int = 0
    world: int = 1
    shards: int = 1

    @property
    def replicas(self) -> int:
        return self.world // self.shards

    @property
    def replica(self) -> int:
        return self.rank // self.shards

    @property
    def shard(self) -> int:
        return self.rank % self.shards

    @property
    def is_main(self) -> bool:
        """Return whether this is the process that writes the status, checkpoints and the artefact."""
        return self.rank == 0

    # ---- shares of the batch and of the latents

    def tokens(self, n_tokens: int) -> int:
        """Return the number of tokens in the global batch, of which this replica has `n_tokens`."""
        return n_tokens * self.replicas

    def batch_share(self, x_BD: Tensor) -> Tensor:
        """Return this replica's rows of the global batch, which is divided evenly among the replicas."""
        size = len(x_BD) // self.replicas
        return x_BD[self.replica * size : (self.replica + 1) * size]

    def latent_share(self, x_L: Tensor) -> Tensor:
        """Return this shard's latents of a tensor whose first dimension is all latents."""
        size = len(x_L) // self.shards
        return x_L[self.shard * size : (self.shard + 1) * size]

    # ---- sums, in place; each method returns its argument

    def sum_tokens(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks that hold the same latents and other tokens."""
        return tensor

    def sum_latents(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks that hold the same tokens and other latents."""
        return tensor

    def sum_all(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks."""
        return tensor

    def min_all(self, tensor: Tensor) -> Tensor:
        """Take the minimum over all ranks, in place."""
        return tensor

    # ---- selections over all ranks

    def batch_topk(self, pre_BL: Tensor, n_keep: int) -> Codes:
        """Return this rank's part of the `n_keep` largest positive entries of the global batch.  Exact, with ties."""
        return batch_topk(pre_BL, n_keep, padded=True)

    def row_topk(self, pre_BL: Tensor, k: int) -> Codes:
        """Return this rank's part of the k largest positive entries of every token, over all shards.  Exact."""
        return row_topk(pre_BL, k, padded=True)

    # ---- tensors of several ranks

    def gather(self, tensor: Tensor) -> Sequence[Tensor]:
        """Return the tensor of every rank, by rank.  All must have the same shape."""
        return [tensor]

    def gather_shards(self, tensor: Tensor) -> Sequence[Tensor]:
        """Return the tensor of every rank with the same tokens, by shard.  All must have the same shape."""
        return [tensor]

    def gather_replicas(self, tensor: Tensor) -> Sequence[Tensor]:
        """Return the tensor of every rank with the same latents, by replica.  All must have the same shape."""
        return [tensor]

    # ---- agreement between ranks

    def agreed(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set on any rank."""
        return flags

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return self.agreed(flag)[0]

    def wait(self) -> None:
        """Wait until all ranks have called this."""

    def apart(self) -> Group:
        """Return a group of the same ranks with separate communicators, for another thread.  Collective."""
        return self

    def from_main(self, value: T) -> T:
        """Return the main process's value."""
        return value


ALONE = Group()
