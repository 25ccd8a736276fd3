"""The settings of each architecture: contradictions are rejected with the field's name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.autoencoder.architectures import REGISTRY
from sae.errors import UserError
from sae.specs.registry import TrainSpec, parse_spec, prefix_sizes


@pytest.mark.parametrize(("values", "field"), [
    ({"architecture": "jumprelu", "bandwidth": 0}, "bandwidth"),
    ({"architecture": "jumprelu", "bandwidth": -0.1}, "bandwidth"),
    ({"architecture": "jumprelu", "l0_penalty": "quadratic"}, "l0_penalty"),
    ({"architecture": "jumprelu", "k": 300}, "k"),
    ({"architecture": "topk", "k": 300}, "k"),
    ({"architecture": "topk", "k": 80, "multi_topk": True}, "multi_topk"),
    ({"architecture": "matryoshka", "multi_topk": True}, "multi_topk"),
    ({"architecture": "matryoshka", "prefixes": "1/2, 1/4, 1"}, "prefixes"),
    ({"architecture": "matryoshka", "prefixes": "1/4, 1/2"}, "prefixes"),
    ({"architecture": "matryoshka", "prefixes": "16, 16, 256"}, "prefixes"),
    ({"architecture": "matryoshka", "prefixes": "half, 1"}, "prefixes"),
    ({"architecture": "matryoshka", "prefixes": "1/0, 1"}, "prefixes"),
    ({"architecture": "matryoshka", "prefixes": " , "}, "prefixes"),
    ({"architecture": "matryoshka", "prefixes": "1/1000, 1"}, "prefixes"),
    ({"architecture": "relu", "l1_coefficient": 0}, "l1_coefficient"),
    ({"architecture": "topk", "resample_every": 100}, "resample_every"),
    ({"architecture": "gated", "sparsity_warmup": 1.5}, "sparsity_warmup"),
    ({"architecture": "sparse"}, "architecture"),
])
def test_contradictions_name_the_field(values: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_spec("train", {"n_latents": 256, **values})
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("architecture", REGISTRY)
def test_every_architecture_can_be_asked_for_by_its_name_alone(architecture: str) -> None:
    assert parse_spec("train", {"architecture": architecture}).architecture == architecture  # type: ignore[union-attr]


def test_k_does_not_bind_architectures_without_it() -> None:
    for values in ({"architecture": "relu"}, {"architecture": "gated"},
                   {"architecture": "jumprelu", "l0_penalty": "linear"}):
        assert TrainSpec(n_latents=16, k=32, **values).k == 32  # type: ignore[arg-type]


def test_prefixes_are_shares_or_numbers() -> None:
    assert prefix_sizes("1/16, 1/8, 1/4, 1/2, 1", 4096) == (256, 512, 1024, 2048, 4096)
    assert prefix_sizes("0.25,1", 100) == (25, 100)
    assert prefix_sizes("100, 1/2, 4096", 4096) == (100, 2048, 4096)
    assert prefix_sizes("1", 7) == (7,)


@given(st.lists(st.integers(2, 500), min_size=1, unique=True).map(sorted))
def test_numbers_of_latents_come_back_as_they_are(sizes: list[int]) -> None:
    assert prefix_sizes(", ".join(map(str, sizes)), sizes[-1]) == tuple(sizes)
