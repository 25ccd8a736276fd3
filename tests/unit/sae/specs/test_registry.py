"""The settings of runs: contradictions are rejected with the field's name, and defaults are complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae.errors import UserError
from sae.specs.registry import (
    SPECS,
    EvaluateSpec,
    IndexSpec,
    SweepSpec,
    TrainSpec,
    demo_spec,
    located,
    parse_spec,
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
    ("prefixes", {"architecture": "matryoshka", "prefixes": "1/2, 1/4, 1"}),
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


def test_an_sae_is_named_by_model_and_name() -> None:
    with pytest.raises(UserError) as refused:
        parse_spec("index", {"sae": "no-slash"})
    assert refused.value.field == "sae"
    assert parse_spec("index", {"sae": "demo/one"}).sae == "demo/one"  # type: ignore[union-attr]


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


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="kind"):
        parse_spec("cook", {})


def test_the_demo_is_a_valid_training_run() -> None:
    assert parse_spec("train", demo_spec().model_dump()) == demo_spec()


@pytest.mark.parametrize("kind", SPECS)
def test_every_field_says_what_it_is_and_where_it_stands(kind: str) -> None:
    for name, field in SPECS[kind].model_fields.items():
        assert field.description, name
        assert isinstance(field.json_schema_extra, dict)
        assert field.json_schema_extra["group"], name


def test_a_spec_survives_json() -> None:
    spec = TrainSpec(k=16, normalize="dataset")
    assert TrainSpec.model_validate_json(spec.model_dump_json()) == spec


def test_local_paths_mean_the_same_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "model").mkdir(parents=True)
    (tmp_path / "text.txt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "link")
    spec = located(TrainSpec(model="model", text="../text.txt"))
    assert (spec.model, spec.text) == (str(tmp_path / "here" / "model"), str(tmp_path / "text.txt"))
    assert located(spec) == spec
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located(IndexSpec(sae="a/b", text="~/link/model")).text == str(tmp_path / "link" / "model")


def test_names_that_are_no_paths_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("demo", "stdlib"):  # our own names take precedence over folders of the same name
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    for spec in (TrainSpec(), TrainSpec(model="owner/name", text="owner/name:config"), IndexSpec(sae="a/b"),
                 EvaluateSpec(sae="a/b"), TrainSpec(text="\0")):
        assert located(spec) == spec
