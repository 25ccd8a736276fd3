"""The settings of runs: contradictions are rejected with the field's name, and defaults are complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae.errors import UserError
from sae.specs.registry import (
    SPECS,
    EvaluateSpec,
    IndexSpec,
    TrainSpec,
    demo_spec,
    located,
    parse_spec,
)


def test_an_sae_is_named_by_model_and_name() -> None:
    with pytest.raises(UserError) as refused:
        parse_spec("index", {"sae": "no-slash"})
    assert refused.value.field == "sae"
    assert parse_spec("index", {"sae": "demo/one"}).sae == "demo/one"  # type: ignore[union-attr]


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
