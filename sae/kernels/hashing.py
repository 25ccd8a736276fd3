"""Hashes that decide which samples are kept, the same whatever the order and the machine."""

from __future__ import annotations

from torch import Tensor


def hash31(key_N: Tensor) -> Tensor:
    """31 well-mixed bits of an int64 (xor-shift and multiply, wrapping)."""
    x = key_N.clone()
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ (x >> shift)) * factor
    return (x ^ (x >> 31)) & 0x7FFFFFFF
