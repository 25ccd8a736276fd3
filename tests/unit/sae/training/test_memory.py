"""The formula of a step's memory: what it depends on, and the sizes that fit."""

from __future__ import annotations

from typing import Any

import pytest

from sae.specs.registry import TrainSpec
from sae.training.memory import fitting_bytes, largest, step_bytes, too_large


def spec(architecture: str, n_latents: int, batch_tokens: int, **changes: Any) -> TrainSpec:
    return TrainSpec(architecture=architecture, n_latents=n_latents, k=3, tokens=10**6, batch_tokens=batch_tokens,
                     dead_after_tokens=10**5, **changes)


def test_the_largest_sizes_fit_and_the_next_do_not() -> None:
    one = spec("batch_topk", 131_072, 4096)
    limit = 0.3 * fitting_bytes([one], 4096)
    n_latents, batch_tokens = largest(one, limit, 4096)
    assert batch_tokens == 0  # the weights alone are too large
    assert 0 < n_latents < 131_072
    for n, fits in ((n_latents, True), (n_latents + 64, False)):
        assert (fitting_bytes([one.model_copy(update={"n_latents": n})], 4096) <= limit) == fits
    message = too_large([one], limit, 4096)
    assert message is not None
    assert message.startswith("n_latents: ")
    assert f"{n_latents:,} latents with batches of 4,096 tokens would fit" in message
    assert too_large([one], 4 * limit, 4096) is None
    together = too_large([one, one], limit, 4096)
    assert together is not None
    assert together.endswith("train fewer SAEs together")


D = 64


def test_each_setting_costs_what_it_adds() -> None:
    base = step_bytes(spec("batch_topk", 512, 64), D)
    for changed in (spec("batch_topk", 1024, 64), spec("batch_topk", 512, 128), spec("matryoshka", 512, 64),
                    spec("relu", 512, 64)):
        assert step_bytes(changed, D) > base
    assert step_bytes(spec("batch_topk", 512, 64), 2 * D) > step_bytes(spec("batch_topk", 512, 64), D, 2 * D) > base
    assert step_bytes(spec("batch_topk", 512, 64), D, D) == base
    assert step_bytes(spec("batch_topk", 512, 64), D, kernels=False) > base
    assert step_bytes(spec("batch_topk", 512, 64), D, dead_share=0) < base
    assert step_bytes(spec("relu", 512, 64), D, dead_share=0) == step_bytes(spec("relu", 512, 64), D)  # no AuxK


def test_shards_divide_the_matrices() -> None:
    whole, halves = (step_bytes(spec("batch_topk", 2**20, 16, shards=n), D) for n in (1, 2))
    assert 0.5 <= halves / whole < 0.51


def test_saes_that_train_together_keep_their_weights_while_one_makes_its_step() -> None:
    one, small = spec("batch_topk", 1024, 64), spec("batch_topk", 64, 64)
    weights = 1.1 * 12 * 2 * D
    alone = fitting_bytes([one], D)
    assert alone > 1.1 * step_bytes(one, D) * 0.999
    assert fitting_bytes([one, one], D) == pytest.approx(alone + weights * 1024)
    assert fitting_bytes([one, small], D) == fitting_bytes([small, one], D) == pytest.approx(alone + weights * 64)


def test_where_no_size_fits_shards_are_named() -> None:
    one = spec("batch_topk", 1024, 64)
    assert largest(one, 1000.0, D) == (0, 0)
    message = too_large([one], 1000.0, D)
    assert message is not None
    assert message.endswith("use a smaller SAE or more shards")
