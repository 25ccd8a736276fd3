"""The dead latents of an SAE in training: which latents have been silent for too long, and how many.

AuxK needs their number on the host, for the shapes of its products.  On CUDA it is copied there at the end of a step,
while the device goes on, and read in the next step when the device already has that step's product and selection to
do.  Before enough tokens have been seen no latent can be dead, and no device is read.

Shapes: L latents, M dead latents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.distributed import Group


class DeadLatents:
    """The tokens since each latent was last active, and the latents for which there are more than `after`."""

    def __init__(self, n_latents: int, after: int, device: torch.device, group: Group) -> None:
        self.after, self.group = after, group
        self.silent_tokens_L = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.seen = 0  # no latent can have been silent for more tokens
        self._copied: tuple[Tensor, torch.cuda.Event] | None = None

    def note(self) -> None:
        """Start to copy the numbers to the host, if latents can be dead.  Collective."""
        self._copied = None
        if self.silent_tokens_L.is_cuda and self.seen > self.after:
            host_2 = torch.empty(2, dtype=torch.int64, pin_memory=True)
            host_2.copy_(self._counts(), non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._copied = host_2, event

    def numbers(self) -> tuple[int, int]:
        """Return the number of dead latents of this shard, and of all shards.  Collective."""
        if self.silent_tokens_L.device.type != "cpu" and self.seen <= self.after:
            return 0, 0
        if self._copied is None:
            own, everywhere = self._counts().tolist()
        else:
            host_2, event = self._copied
            event.synchronize()
            own, everywhere = host_2.tolist()
        return own, everywhere

    def latents(self, number: int | None = None) -> Tensor:
        """Return the dead latents, [M].  If their number is given, the host does not wait for a GPU."""
        dead_L = self.silent_tokens_L > self.after
        if number is None or not dead_L.is_cuda:
            return dead_L.nonzero().squeeze(1)
        latent_L = torch.arange(len(dead_L), device=dead_L.device)
        place_L = torch.where(dead_L, dead_L.cumsum(0) - 1, number)  # the others all go to one further place
        return latent_L.new_empty(number + 1).scatter_(0, place_L, latent_L)[:number]

    def _counts(self) -> Tensor:
        own = (self.silent_tokens_L > self.after).sum()
        return torch.stack([own, self.group.sum_latents(own.clone())])
