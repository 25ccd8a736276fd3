"""Several processes training one SAE: who holds what, and the few sums that make them one.

The world is a grid of replicas × shards, rank = replica · shards + shard:

    replica r   sees rows r·B/R … of the global batch        (data parallel)
    shard s     owns latents s·L/S … of W_enc, b_enc, W_dec   (latent parallel)

A latent's weights are the same on all replicas; b_dec is the same everywhere.  What a rank
computes from its own tokens and its own latents is a part of a sum, so a step asks for sums over
the other tokens or the other latents and otherwise is the step of a single process.

`Group` is one process alone: every method is the identity and torch.distributed is not touched.
`sae.distributed.world` makes the group of a `torchrun`.

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
    """The place of this process among all that train the same SAE; here: there is no other."""

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
        """Whether this is the process that writes: status, checkpoints, the artefact."""
        return self.rank == 0

    # ---- what is whose

    def tokens(self, n_tokens: int) -> int:
        """Tokens in the global batch, of which this replica has `n_tokens`."""
        return n_tokens * self.replicas

    def batch_share(self, x_BD: Tensor) -> Tensor:
        """This replica's rows of the global batch (which the replicas divide)."""
        size = len(x_BD) // self.replicas
        return x_BD[self.replica * size : (self.replica + 1) * size]

    def latent_share(self, x_L: Tensor) -> Tensor:
        """This shard's latents of a tensor whose first dimension is all latents."""
        size = len(x_L) // self.shards
        return x_L[self.shard * size : (self.shard + 1) * size]

    # ---- sums, in place; they return what they were given

    def sum_tokens(self, tensor: Tensor) -> Tensor:
        """Over the ranks that hold other tokens, and the same latents."""
        return tensor

    def sum_latents(self, tensor: Tensor) -> Tensor:
        """Over the ranks that hold other latents, and the same tokens."""
        return tensor

    def sum_all(self, tensor: Tensor) -> Tensor:
        """Over all ranks."""
        return tensor

    def min_all(self, tensor: Tensor) -> Tensor:
        """The least over all ranks, in place."""
        return tensor

    # ---- selections over everything

    def batch_topk(self, pre_BL: Tensor, n_keep: int) -> Codes:
        """This rank's part of the `n_keep` largest positive entries of the global batch; exact, ties too."""
        return batch_topk(pre_BL, n_keep)

    def row_topk(self, pre_BL: Tensor, k: int) -> Codes:
        """This rank's part of the k largest positive entries of every token, over all shards; exact."""
        return row_topk(pre_BL, k)

    # ---- pieces put together

    def gather(self, tensor: Tensor) -> Sequence[Tensor]:
        """The same-shaped tensor of every rank, by rank."""
        return [tensor]

    def gather_shards(self, tensor: Tensor) -> Sequence[Tensor]:
        """The same-shaped tensor of every rank with the same tokens, by shard."""
        return [tensor]

    def gather_replicas(self, tensor: Tensor) -> Sequence[Tensor]:
        """The same-shaped tensor of every rank with the same latents, by replica."""
        return [tensor]

    # ---- agreements

    def agreed(self, *flags: bool) -> tuple[bool, ...]:
        """Which of the flags are set on any rank."""
        return flags

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.agreed(flag)[0]

    def wait(self) -> None:
        """Until all ranks are here."""

    def apart(self) -> Group:
        """The same ranks with lines of their own, for another thread; collective."""
        return self

    def from_main(self, value: T) -> T:
        """The value that the main process has."""
        return value


ALONE = Group()
