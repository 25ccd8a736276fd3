"""Exact top-k over ranks in threads, against sorting the whole matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.distributed import Group
from sae.distributed.select import global_batch_topk, global_row_topk, row_cut
from sae.kernels.codes import Codes

T = TypeVar("T")


class Rank(Group):
    """A rank whose peers are threads: all meet at a barrier to exchange their tensors."""

    def __init__(self, rank: int, world: int, shards: int, barrier: Barrier, table: list[Tensor]) -> None:
        self.rank, self.world, self.shards = rank, world, shards
        self._barrier, self._table = barrier, table

    def gather(self, tensor: Tensor) -> Sequence[Tensor]:
        self._table[self.rank] = tensor.clone()
        self._barrier.wait()
        found = list(self._table)
        self._barrier.wait()
        return found

    def sum_all(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(list(self.gather(tensor))).sum(dim=0))

    def gather_shards(self, tensor: Tensor) -> Sequence[Tensor]:
        return self.gather(tensor)[self.replica * self.shards : (self.replica + 1) * self.shards]


def on_ranks(replicas: int, shards: int, work: Callable[[Rank], T]) -> list[T]:
    """Return what `work` returns on every rank, by rank."""
    world = replicas * shards
    barrier, table = Barrier(world, timeout=10), [torch.zeros(0)] * world
    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(lambda rank: work(Rank(rank, world, shards, barrier, table)), range(world)))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[int, int, Tensor]:
    """Draw the numbers of replicas and shards, and pre-activations, of which many are equal."""
    replicas, shards = draw(st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2), (3, 2)]))
    B, L = replicas * draw(st.integers(1, 3)), shards * draw(st.integers(1, 4))
    values = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.0 + 2**-23, 300.0])
    return replicas, shards, torch.tensor(draw(st.lists(values, min_size=B * L, max_size=B * L))).view(B, L)


def own(pre_BL: Tensor, rank: Rank) -> Tensor:
    return rank.latent_share(rank.batch_share(pre_BL).T).T.contiguous()


def whole(found: list[tuple[Rank, Codes]]) -> dict[tuple[int, int], float]:
    """Return {(token, latent): value} in the numbers of the whole matrix, of all ranks."""
    pairs: dict[tuple[int, int], float] = {}
    for rank, codes in found:
        for token, latent, value in zip(codes.token_N.tolist(), codes.latent_N.tolist(), codes.value_N.tolist(),
                                        strict=True):
            pair = token + rank.replica * codes.n_tokens, latent + rank.shard * codes.n_latents
            assert pair not in pairs
            pairs[pair] = value
    return pairs


def strongest(pre_BL: Tensor, tokens: Sequence[int], n: int) -> dict[tuple[int, int], float]:
    """Return the `n` largest positive entries of some tokens; ties go to the lowest (token, latent)."""
    entries = {(b, i): float(pre_BL[b, i]) for b in tokens for i in range(pre_BL.shape[1]) if pre_BL[b, i] > 0}
    return dict(sorted(entries.items(), key=lambda entry: (-entry[1], entry[0]))[:n])


@settings(max_examples=60)
@given(worlds(), st.integers(1, 40))
def test_the_strongest_of_the_batch_are_selected(world: tuple[int, int, Tensor], n: int) -> None:
    replicas, shards, pre_BL = world
    found = on_ranks(replicas, shards, lambda rank: (rank, global_batch_topk(own(pre_BL, rank), n, rank)))
    assert whole(found) == strongest(pre_BL, range(len(pre_BL)), n)


@settings(max_examples=60)
@given(worlds(), st.data())
def test_the_strongest_of_every_token_are_selected(world: tuple[int, int, Tensor], data: st.DataObject) -> None:
    replicas, shards, pre_BL = world
    k = data.draw(st.integers(1, pre_BL.shape[1]))
    found = on_ranks(replicas, shards, lambda rank: (rank, global_row_topk(own(pre_BL, rank), k, rank)))
    pairs = whole(found)
    assert all(value == float(pre_BL[pair]) for pair, value in pairs.items())
    for b in range(len(pre_BL)):  # ties at the cut may go to any latent
        assert sorted(value for (token, _), value in pairs.items() if token == b) == sorted(
            strongest(pre_BL, [b], k).values())


@settings(max_examples=40)
@given(worlds(), st.data())
def test_the_cut_of_a_row_is_its_kth_largest_entry(world: tuple[int, int, Tensor], data: st.DataObject) -> None:
    replicas, shards, pre_BL = world
    z_BL = pre_BL.clamp(min=0)
    k = data.draw(st.integers(1, z_BL.shape[1]))
    cuts = on_ranks(replicas, shards, lambda rank: (rank, row_cut(own(z_BL, rank), k, rank)))
    for rank, cut_B1 in cuts:
        assert torch.equal(cut_B1[:, 0], rank.batch_share(z_BL).sort(dim=1, descending=True).values[:, k - 1])
