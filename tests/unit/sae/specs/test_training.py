"""The settings of training and of sweeps: contradictions are rejected with the field's name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.autoencoder.architectures import REGISTRY
from sae.errors import UserError
from sae.specs.registry import (
    SweepSpec,
    TrainSpec,
    parse_spec,
    prefix_sizes,
)


@pytest.mark.parametrize(("field", "values"), [
    ("k", {"k": 65, "n_latents": 64}),
    ("k", {"k": 0}),
    ("k_aux", {"k_aux": 65, "n_latents": 64, "k": 4}),
    ("tokens", {"tokens": 1_000, "batch_tokens": 2_048}),
    ("buffer_tokens", {"buffer_tokens": 1_024, "batch_tokens": 2_048}),
    ("normalize", {"normalize": "whiten"}),
    ("architecture", {"architecture": "relu2"}),
    ("device", {"device": "tpu"}),
    ("layer", {"layer": -1}),
    ("lr", {"lr": float("nan")}),
    ("site", {"site": "hook_resid_past"}),
    ("out_site", {"out_site": "hook_nowhere"}),
    ("out_site", {"out_site": "hook_resid_post"}),
    ("out_site", {"site": "hook_mlp_out", "out_site": "hook_mlp_in"}),
    *(("out_site", {"architecture": a, "site": "hook_mlp_in", "out_site": "hook_mlp_out"})
      for a in ("relu", "gated", "jumprelu")),
    ("bandwidth", {"architecture": "jumprelu", "bandwidth": 0}),
    ("bandwidth", {"architecture": "jumprelu", "bandwidth": -0.1}),
    ("l1_coefficient", {"architecture": "relu", "l1_coefficient": 0}),
    *(("prefixes", {"architecture": "matryoshka", "n_latents": 256, "prefixes": prefixes}) for prefixes in (
        "1/2, 1/4, 1", "1/4, 1/2", "16, 16, 256", "half, 1", "1/0, 1", " , ", "1/1000, 1")),
    ("k", {"architecture": "jumprelu", "n_latents": 256, "k": 300}),
    ("k", {"architecture": "topk", "n_latents": 256, "k": 300}),
    ("k", {"k": 2048, "n_latents": 1 << 22, "shards": 4096, "batch_tokens": 1 << 20, "buffer_tokens": 1 << 20}),
    ("l0_penalty", {"architecture": "jumprelu", "l0_penalty": "quadratic"}),
    ("sparsity_warmup", {"architecture": "gated", "sparsity_warmup": 1.5}),
    ("multi_topk", {"architecture": "topk", "n_latents": 256, "k": 80, "multi_topk": True}),
    ("multi_topk", {"architecture": "matryoshka", "multi_topk": True}),
    ("shards", {"n_latents": 64, "k": 4, "shards": 3}),
    ("multi_topk", {"multi_topk": True, "k": 2000}),
    ("resample_every", {"resample_every": 10}),
    ("batch_tokens", {"n_latents": 1 << 20, "batch_tokens": 1 << 11}),
    ("b_dec_init", {"b_dec_init": "zero"}),
    ("buffer_dtype", {"buffer_dtype": "int8"}),
    ("colour", {"colour": "blue"}),
])
def test_a_bad_setting_is_refused_by_name(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(UserError) as refused:
        parse_spec("train", values)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}:")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("field", "values"), [
    ("k", {"k": "16, 9000"}),
    ("k", {"k": "0"}),
    ("k", {"k": ""}),
    ("n_latents", {"n_latents": "4096,x"}),
    ("architecture", {"architecture": "topk,tpok"}),
    ("architecture", {"n_latents": ",".join(map(str, range(1000, 1100)))}),
    ("out_site", {"architecture": "topk,relu", "site": "hook_mlp_in", "out_site": "hook_mlp_out"}),
    ("prefixes", {"architecture": "topk,matryoshka", "prefixes": "none"}),
    ("batch_tokens", {"n_latents": "1024,1048576", "batch_tokens": 1 << 11}),
])
def test_a_bad_setting_of_a_sweep_is_refused_by_name(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(UserError) as refused:
        parse_spec("sweep", values)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}:")
    assert "\n" not in str(refused.value)


def test_a_sweep_is_every_architecture_with_every_size_and_what_decides_its_sparsity() -> None:
    spec = parse_spec("sweep", {
        "architecture": "topk, jumprelu,relu,topk", "n_latents": "64,128", "k": [4, 8], "l1_coefficient": "0.5",
        "seed": 3, "site": "attn.hook_z"})
    assert isinstance(spec, SweepSpec)
    members = spec.members()
    assert [(one.architecture, one.n_latents, one.k) for one in members[:8]] == [
        (architecture, n_latents, k) for architecture in ("topk", "jumprelu") for n_latents in (64, 128)
        for k in (4, 8)]
    assert [(one.architecture, one.n_latents, one.l1_coefficient) for one in members[8:]] == [
        ("relu", 64, 0.5), ("relu", 128, 0.5)]
    assert {(one.seed, one.hook) for one in members} == {(3, "blocks.2.attn.hook_z")}
    assert parse_spec("sweep", spec.model_dump(mode="json")) == spec
    linear = SweepSpec(architecture="jumprelu", l0_penalty="linear")  # type: ignore[arg-type]
    assert len(linear.members()) == len(linear.n_latents)
    assert TrainSpec().members() == [TrainSpec()]


def test_a_spec_survives_json() -> None:
    spec = TrainSpec(k=16, normalize="dataset")
    assert TrainSpec.model_validate_json(spec.model_dump_json()) == spec


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


def test_a_transcoder_reads_one_site_and_writes_another() -> None:
    spec = TrainSpec(layer=3, site="ln2.hook_normalized", out_site="hook_mlp_out")
    assert (spec.hook, spec.out_hook) == ("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out")
    assert TrainSpec(layer=3).out_hook == ""


grids = st.fixed_dictionaries({
    "architecture": st.lists(st.sampled_from(sorted(REGISTRY)), min_size=1, max_size=3),
    "n_latents": st.lists(st.integers(64, 70), min_size=1, max_size=3), "prefixes": st.just("1/2, 1"),
    "k": st.lists(st.integers(1, 64), min_size=1, max_size=3),
    "l1_coefficient": st.lists(st.sampled_from([0.1, 0.5]), min_size=1, max_size=3)})


@settings(max_examples=40)
@given(grids)
def test_the_members_of_a_sweep_are_distinct_and_share_all_else(grid: dict[str, Any]) -> None:
    spec = SweepSpec(**grid, seed=5, lr=0.01)
    members = spec.members()
    knobs = {a: len(set(grid["l1_coefficient" if a in ("relu", "gated") else "k"])) for a in grid["architecture"]}
    assert len(members) == sum(knobs.values()) * len(set(grid["n_latents"]))
    assert len({one.model_dump_json() for one in members}) == len(members)
    for one in members:
        assert (one.name, one.seed, one.lr) == ("", 5, 0.01)
        assert TrainSpec.model_validate_json(one.model_dump_json()) == one
