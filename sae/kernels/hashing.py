"""Hashes that decide which samples are kept, independently of the order of the data and of the machine."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

UInts: TypeAlias = NDArray[np.uint64]

GAMMA = 0x9E3779B97F4A7C15
_STEPS = (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)
_MASK = 2**64 - 1


def hash31(key_N: Tensor) -> Tensor:
    """Return 31 well-mixed bits of an int64 (xor-shift and multiply, wrapping)."""
    x = key_N.clone()
    for shift, factor in _STEPS:
        x = (x ^ (x >> shift)) * (factor - 2**64)
    return (x ^ (x >> 31)) & 0x7FFFFFFF


def mix64(x_N: UInts) -> UInts:
    """Mix the bits of each number, in place, and return the array."""
    for shift, factor in _STEPS:
        x_N ^= x_N >> np.uint64(shift)
        x_N *= np.uint64(factor)  # products of arrays are modulo 2^64
    x_N ^= x_N >> np.uint64(31)
    return x_N


def mix64_int(x: int) -> int:
    """Mix the bits of one number below 2^64, as `mix64` does, without the cost of an array."""
    for shift, factor in _STEPS:
        x = ((x ^ (x >> shift)) * factor) & _MASK
    return x ^ (x >> 31)


def counter_int(index: int) -> int:
    """Return the state GAMMA · (index + 1), modulo 2^64."""
    return (index + 1) * GAMMA & _MASK


def counter(index_N: NDArray[np.integer], start: int = 0) -> UInts:
    """Return the states start + GAMMA · (index + 1), modulo 2^64, ready to be mixed."""
    x_N = index_N.astype(np.uint64)
    x_N += np.uint64(1)
    x_N *= np.uint64(GAMMA)
    x_N += np.uint64(start & _MASK)
    return x_N
