"""The search for the few large entries of a pre-activation matrix on the CPU.

A bfloat16 is the upper half of a float32.  Its 16 bits, read as an unsigned integer, order positive numbers by value
and negative ones in reverse, after all positive ones.  So the entries above a bound are one interval of integers,
which processors compare many times faster than bfloat16.

Shapes: B tokens, L latents, N entries found.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_BLOCK = 1 << 21  # entries compared at once: they and the results stay in the cache
_NAN, _MINUS = 0x7F81, 0x8000  # the first bfloat16 that is NaN, and minus zero

Bits = npt.NDArray[Any]


def above(pre_BL: Tensor, bound: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return the entries strictly above `bound`: ascending indices into the flattened [B, L], and float32 values, [N].

    `bound` is one number, one per latent [L] or one per token [B, 1], in float32.
    """
    if pre_BL.device.type != "cpu":
        flat_N = (pre_BL > bound).reshape(-1).nonzero().squeeze(1)
        return flat_N, pre_BL.reshape(-1)[flat_N].float()
    bound = torch.as_tensor(bound, dtype=torch.float32).detach()
    if pre_BL.dtype == torch.bfloat16:
        if bool((bound >= 0).all()):  # one comparison: as signed integers, negative numbers stay below
            low = ((bound.contiguous().view(torch.int32).numpy() & 0x7FFF_FFFF) >> 16).astype(np.int16)
            flat_N, bits_N = _scan(pre_BL.view(torch.int16), low, None)
            numbers_N = bits_N < _NAN
            if not numbers_N.all():
                flat_N, bits_N = flat_N[torch.from_numpy(numbers_N)], bits_N[numbers_N]
        else:
            flat_N, bits_N = _scan(pre_BL.view(torch.uint16), *_interval(bound))
        return flat_N, torch.from_numpy((bits_N.astype(np.uint32) << 16).view(np.float32))
    flat_N, value_N = _scan(pre_BL.float(), bound.numpy(), None)
    return flat_N, torch.from_numpy(value_N)


def below_kth_maximum(pre_BL: Tensor, size: int, k: int) -> Tensor:
    """Return a bound for each row that is below its k largest entries, as far as they are positive, [B, 1].

    It is just below the k-th largest of the maxima of disjoint groups of `size` latents, which is a lower bound of the
    k-th largest entry.
    """
    B, L = pre_BL.shape
    # Groups are strided over latents, so that the maximum is taken of whole vectors.
    maxima = torch.from_numpy(_bits(pre_BL)).reshape(B, size, L // size).amax(dim=1).numpy()
    kth = np.partition(maxima, maxima.shape[1] - k, axis=1)[:, -k]
    bits = np.maximum(kth.astype(np.int32) - 1, 0) << (16 if maxima.dtype == np.int16 else 0)
    return torch.from_numpy(bits).view(torch.float32)[:, None]


def kth_of_rows(values_BM: Tensor, k: int) -> Tensor:
    """Return the k-th largest entry of every row of a matrix without negative entries, [B, 1]."""
    if values_BM.device.type != "cpu":
        return values_BM.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    bits = _bits(values_BM)
    return torch.from_numpy(np.partition(bits, bits.shape[1] - k, axis=1)[:, -k, None]).view(values_BM.dtype)


def zero_below_(values_BM: Tensor, cut_B1: Tensor) -> None:
    """Set the entries below their row's `cut` to 0, in place.  No entry and no cut may be negative."""
    if values_BM.device.type != "cpu":
        values_BM *= values_BM >= cut_B1
    else:
        bits = _bits(values_BM)
        bits *= bits >= _bits(cut_B1)


def zero_where_zero_(values_BM: Tensor, other_BM: Tensor) -> None:
    """Set `values` to 0 where `other`, which must have no negative entry, is 0; in place."""
    if values_BM.device.type != "cpu":
        values_BM *= other_BM > 0
    else:
        bits = _bits(values_BM)
        bits *= _bits(other_BM) > 0


def _bits(matrix: Tensor) -> Bits:
    """View the same memory as integers, which order non-negative numbers by value."""
    return matrix.view(torch.int16 if matrix.dtype == torch.bfloat16 else torch.int32).numpy()


def kth_largest(value_N: Tensor, n: int) -> Tensor:
    """Return the n-th largest of some numbers as a zero-dimensional tensor.  None may be NaN."""
    index = len(value_N) - n
    if value_N.device.type != "cpu":
        return value_N.kthvalue(index + 1).values
    return torch.as_tensor(np.partition(value_N.numpy(), index)[index])


def _interval(bound: Tensor) -> tuple[Bits, Bits]:
    """Return the first integer of the interval above `bound`, and the interval's length; both uint16."""
    bits = bound.contiguous().view(torch.int32).numpy().astype(np.int64) & 0x7FFF_FFFF  # of the magnitude
    negative = np.signbit(bound.numpy()) & (bits != 0)
    # A bound >= 0: the numbers after it.  A bound < 0: all numbers from 0 on, and negative ones of smaller magnitude.
    first = np.where(negative, 0, (bits >> 16) + 1)
    end = np.where(negative, _MINUS + ((bits + 0xFFFF) >> 16), _NAN)
    first = np.minimum(first, end)
    return first.astype(np.uint16), (end - first).astype(np.uint16)


def _scan(pre_BL: Tensor, first: Bits, length: Bits | None) -> tuple[Tensor, Bits]:
    """Return indices and entries; each entry is taken while its block is in the cache."""
    B, L = pre_BL.shape
    entries, per_token = pre_BL.numpy(), first.ndim == 2
    rows = max(1, _BLOCK // L)

    def block(start: int) -> tuple[npt.NDArray[np.int64], Bits]:
        part = entries[start : start + rows]
        low = first[start : start + rows] if per_token else first
        if length is None:
            found = np.flatnonzero(part > low)
        else:
            width = length[start : start + rows] if per_token else length
            found = np.flatnonzero(part - low < width)  # wraps around below `low`
        return found + start * L, part.reshape(-1)[found]

    starts, threads = range(0, B, rows), torch.get_num_threads()
    many = threads > 1 and len(starts) > 1
    parts = list(_pool(threads).map(block, starts) if many else map(block, starts))
    if not parts:
        return torch.zeros(0, dtype=torch.int64), np.empty(0, entries.dtype)
    indices, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return torch.from_numpy(indices), values


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="scan")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
