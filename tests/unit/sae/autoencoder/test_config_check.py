"""Checks of an SAE's files without torch: a usable file is returned whole, and a fault is named in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sae.autoencoder.config_check import load_config, weights_fault

GOOD: dict[str, Any] = {
    "architecture": "topk", "n_latents": 8, "d_model": 4, "normalize": "none", "model": {"name": "demo", "id": "demo"},
    "site": {"layer": 2, "hook": "blocks.2.hook_resid_post"}, "added later": [1]}


def written(folder: Path, value: Any) -> Path:
    path = folder / "sae.json"
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


def test_a_usable_file_is_returned_whole(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, GOOD)) == GOOD
    dashboard = {**GOOD, "weights": "none", "imported": {"format": "neuronpedia"}}
    del dashboard["d_model"], dashboard["normalize"]
    assert load_config(written(tmp_path, dashboard)) == dashboard


@pytest.mark.parametrize(("content", "reason"), [
    (b"{", "sae.json is not JSON"), (b"[]", "sae.json is not a JSON object"), (b"\xff", "sae.json is not UTF-8 text"),
    (b'{"run": "\\ud800"}', "sae.json is not UTF-8 text"), (b"[" * 100_000, "sae.json is nested too deeply"),
    (b'{"k": Infinity}', "sae.json has the value Infinity"), (b"{}", "sae.json: architecture is missing")])
def test_what_is_no_configuration_is_said_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}") as error:
        load_config(written(tmp_path, content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"n_latents": -1}, "n_latents"), ({"n_latents": "8"}, "n_latents"), ({"k": 2**31}, "k"), ({"site": None}, "site"),
    ({"site": {"layer": 2, "hook": 5}}, r"site\.hook"), ({"model": {}}, r"model\.name"), ({"created": -1}, "created"),
    ({"d_model": None}, "d_model is missing"), ({"d_model": 0}, "d_model is missing"),
    ({"normalize": None}, "normalize is missing"), ({"weights": "none"}, "imported is missing"),
    ({"metrics": {"fvu": "low"}}, r"metrics\.fvu")])
def test_a_value_that_pages_cannot_use_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"^sae.json: .*{reason}"):
        load_config(written(tmp_path, {**GOOD, **changes}))


def test_a_file_that_is_not_there_or_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        load_config(tmp_path / "sae.json")
    path = written(tmp_path, GOOD)
    size = path.stat().st_size
    monkeypatch.setattr("sae.autoencoder.config_check._MAX_BYTES", size)
    assert load_config(path) == GOOD
    monkeypatch.setattr("sae.autoencoder.config_check._MAX_BYTES", size - 1)
    with pytest.raises(ValueError, match=f"has {size} bytes, more than {size - 1}"):
        load_config(path)


def test_weights_are_judged_by_their_header_and_size(tmp_path: Path) -> None:
    assert weights_fault(tmp_path) == ""  # a dashboard has none
    path, rows = tmp_path / "sae.safetensors", np.zeros((4, 2), np.float32)
    save_file({"W_enc": rows, "W_dec": rows}, str(path))
    assert weights_fault(tmp_path) == ""
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size - 4)
    assert weights_fault(tmp_path).startswith("sae.safetensors is damaged (")
    save_file({"W_enc": rows}, str(path))
    assert weights_fault(tmp_path) == "sae.safetensors does not have the tensors of an SAE"
    path.write_bytes(b"")
    assert "damaged" in weights_fault(tmp_path)
