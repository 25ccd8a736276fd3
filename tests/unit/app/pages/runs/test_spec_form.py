"""Tests of the form of a spec: fields, presets, what was typed, messages."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.pages.runs import spec_form
from sae.specs.registry import SPECS, SweepSpec, TrainSpec


def test_the_papers_grid_is_one_run() -> None:
    grid = spec_form.SWEEPS["paper"][2] | {"model": "demo", "text": "stdlib", "layer": 2}
    assert len(SweepSpec(**grid).members()) == 36


def test_messages_are_in_plain_words(admin: TestClient) -> None:
    page = html.unescape(admin.post("/admin/train", data={"k": "0", "tokens": "x", "lr": "2", "model": ""}).text)
    for words in ("k must be a whole number of 1 or more", "tokens must be a whole number of 1,000 or more",
                  "lr must be a number from 0 to 1", "model must not be empty"):
        assert words in page, words
    assert "Input should" not in page
    page = html.unescape(admin.post("/admin/train", data={"k": "5000"}).text)
    assert "5000 latents per token, but n_latents is 4096" in page
    assert "k: k:" not in re.sub(r"<[^>]*>", "", page)


# ---- without a page


@pytest.mark.parametrize("kind", SPECS)
def test_every_setting_has_a_field_in_one_group(kind: str) -> None:
    names = [field.name for field in spec_form.settings(kind)]
    assert sorted(names) == sorted(SPECS[kind].model_fields)
    assert all(field.description and field.label for field in spec_form.settings(kind))


@pytest.mark.parametrize(("name", "kind", "value", "default", "limits"), [
    ("k", "number", "32", "32", "from 1"), ("architecture", "choice", "batch_topk", "batch_topk", ""),
    ("train_on_bos", "check", True, "yes", ""), ("name", "text", "", "empty", ""),
    ("tokens", "number", "1500000", "1,500,000", "from 1,000")])
def test_a_field_is_made_from_the_type_of_its_setting(
    name: str, kind: str, value: object, default: str, limits: str
) -> None:
    field = next(one for one in spec_form.settings("train") if one.name == name)
    info = TrainSpec.model_fields[name]
    assert field.kind == kind
    if kind == "choice":
        assert info.default in field.choices
    if name != "tokens":
        assert (field.value, field.default) == (value, default)
    assert field.range.startswith(limits)
    assert field.description == info.description


def test_a_group_is_open_where_it_is_changed_or_at_fault() -> None:
    def opened(values: dict[str, Any], errors: dict[str, str]) -> set[str]:
        return {group.title for group in spec_form.groups("train", values, errors) if group.open}

    usual = opened({}, {})
    assert usual == {"Model, text and site", "The dictionary"}
    assert opened({"lr": "0"}, {}) == usual, "typed, but the default"
    assert opened({"lr": "0.5"}, {}) == usual | {"Training"}
    assert opened({}, {"index_tokens": "index_tokens: too few"}) == usual | {"Index"}


def test_a_message_at_a_field_does_not_repeat_its_name() -> None:
    fields = [field for group in spec_form.groups("train", {}, {"k": "k: too large"}) for field in group.fields]
    assert {field.name: field.error for field in fields if field.error} == {"k": "too large"}


def test_a_box_that_is_not_ticked_means_no() -> None:
    read = spec_form.read_form("train", {"index": "on", "k": " 7 ", "colour": "red"})
    assert (read["index"], read["train_on_bos"], read["k"]) == (True, False, "7")
    assert not {"colour", "layer"} & set(read)


def test_numbers_may_have_marks_between_and_emptied_ones_are_defaults() -> None:
    typed = {"tokens": "1,000_000 ", "k": "", "lr": " ", "name": "", "text": "a, b"}
    assert spec_form.spec_values("train", typed) == {"tokens": "1000000", "name": "", "text": "a, b"}


def test_faults_are_by_setting_and_the_whole_specs_under_none() -> None:
    assert spec_form.find_errors("train", {"k": 3}) == {}
    found = spec_form.find_errors("train", {"k": "0", "lr": "x", "colour": "red"})
    assert {"k", "lr"} <= set(found)
    assert all(not message.startswith("k:") for message in found.values())
    assert "colour" not in found
    assert spec_form.spec_of("train", {"k": 0}) is None
    assert spec_form.spec_of("sweep", {}) == SweepSpec()


def test_presets_are_defaults_with_changes() -> None:
    assert spec_form.preset("train", "nonsense") == spec_form.defaults("train")
    quick = spec_form.preset("train", "quick")
    assert quick["n_latents"] == 1024
    assert TrainSpec(**quick).k == 16
    assert spec_form.presets("index") == {}


def test_settings_of_a_run_come_in_the_order_of_the_form() -> None:
    found = spec_form.in_order("train", {"colour": "red", "index": False, "tokens": 1_500_000, "k": 3, "model": ""})
    names = [name for name, _ in found]
    assert names[0] == "model"
    assert names[-1] == "colour", "unknown ones are last"
    assert dict(found) == {
        "model": "empty", "k": "3", "tokens": "1,500,000", "index": "no", "colour": "red"}
    assert spec_form.in_order("bake", {"x": 1}) == [("x", "1")]
