"""splitmix64: the published constants, its three forms alike, and its bits evenly spread."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.kernels.hashing import counter, counter_int, hash31, mix64, mix64_int

# The first outputs of splitmix64 from seed 0, as java.util.SplittableRandom and the reference C code give them.
SEED_0 = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]


def test_published_sequence() -> None:
    assert [mix64_int(counter_int(n)) for n in range(4)] == SEED_0
    assert mix64(counter(np.arange(4))).tolist() == SEED_0


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_array_and_integer_agree(start: int, index: int) -> None:
    state = (start + counter_int(index)) % 2**64
    assert mix64(counter(np.array([index]), start)).tolist() == [mix64_int(state)]


def test_bits_are_even_and_keys_stay_apart() -> None:
    keys = torch.arange(100_000)
    hashed = hash31(keys)
    assert int(hashed.min()) >= 0
    assert int(hashed.max()) < 2**31
    assert len(hashed.unique()) > len(keys) - 20  # a birthday's worth: 100,000² / 2^32 = 2.3 expected
    ones = ((hashed[:, None] >> torch.arange(31)) & 1).double().mean(dim=0)
    assert (ones - 0.5).abs().max() < 5 * 0.5 / len(keys) ** 0.5
    assert keys.tolist() == list(range(100_000))  # the keys are not changed
