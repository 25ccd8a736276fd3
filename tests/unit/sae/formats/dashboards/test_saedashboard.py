"""The reader of SAEDashboard's batches, for batches written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sae.errors import UserError
from sae.formats.dashboards.records import Example, Feature
from sae.formats.dashboards.saedashboard import files_of, open_dashboard

CONTEXT = {"tokens": ["a", "b"], "values": [0.0, 2.0], "bin_min": -1, "bin_max": 2.0, "qualifying_token_index": 1}


def batch(path: Path, *latents: object, length: int = 3, **head: Any) -> Path:
    features = [{"feature_index": latent, "frac_nonzero": 0.5, "n_tokens_in_prompt": length, "n_prompts_total": 40,
                 "dataset": "this/text", "activations": [CONTEXT]} for latent in latents]
    path.write_text(json.dumps({"model_id": "m", "layer": 3, "sae_set": "res", "sae_id_suffix": None, **head,
                                "features": features}))
    return path


def test_records_come_from_all_batches_in_order(tmp_path: Path) -> None:
    for number, latents in ((10, [7]), (2, [4, 5]), (0, [0])):
        batch(tmp_path / f"batch-{number}.json", *latents)
    (tmp_path / "run_settings.json").write_text('{"hook_name": "blocks.3.hook_resid_post"}')
    read: list[int] = []
    dashboard = open_dashboard(tmp_path)
    records = [*dashboard.records(read.append)]
    assert [record.latent for record in records if isinstance(record, Feature)] == [0, 4, 5, 7]
    assert sum(read) == dashboard.n_bytes
    assert (dashboard.model, dashboard.name, dashboard.layer, dashboard.hook) == (
        "m", "3-res", 3, "blocks.3.hook_resid_post")
    assert (dashboard.dataset, dashboard.n_prompts, dashboard.context_length) == ("this/text", 40, 3)
    assert [*dashboard.sample()] == [["a", "b"]]


@pytest.mark.parametrize(("length", "more"), [(3, {"start": 1}), (2, {}), (9, {})])
def test_a_whole_context_begins_after_the_position_that_is_left_out(
    tmp_path: Path, length: int, more: dict[str, int]
) -> None:
    dashboard = open_dashboard(batch(tmp_path / "batch-0.json", 1, length=length))
    (example,) = (record for record in dashboard.records(lambda n: None) if isinstance(record, Example))
    assert example == Example(1, ["a", "b"], [0.0, 2.0], -1.0, 2.0, 1, more)


def test_the_name_has_the_suffix_of_the_sae(tmp_path: Path) -> None:
    assert open_dashboard(batch(tmp_path / "batch-0.json", 1, sae_id_suffix="l0-9")).name == "3-res__l0-9"
    assert open_dashboard(batch(tmp_path / "batch-0.json", 1, layer=None, sae_set=None)).name == "0-sae"


@pytest.mark.parametrize("settings", ["[]", "{", "[" * 50_000])
def test_damaged_settings_are_left_out(tmp_path: Path, settings: str) -> None:
    batch(tmp_path / "batch-0.json", 1)
    (tmp_path / "run_settings.json").write_text(settings)
    assert open_dashboard(tmp_path).hook == ""


def test_what_is_no_batch_is_refused(tmp_path: Path) -> None:
    batch(tmp_path / "other.json", 1)
    (tmp_path / "batch-1.json").symlink_to(tmp_path / "other.json")
    assert files_of(tmp_path) == files_of(tmp_path / "other.json") == []
    with pytest.raises(UserError, match=r"has no batch-\*\.json"):
        open_dashboard(tmp_path)
    for latent in (-1, "x", None):
        dashboard = open_dashboard(batch(tmp_path / "batch-0.json", latent))
        with pytest.raises(UserError, match="is not the number of a latent"):
            list(dashboard.records(lambda n: None))
    (tmp_path / "batch-0.json").write_text('{"features": [1]}')
    with pytest.raises(UserError, match="it has no list of features"):
        open_dashboard(tmp_path)
