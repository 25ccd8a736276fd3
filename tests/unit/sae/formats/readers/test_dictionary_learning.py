"""dictionary_learning: the config names the class, and backups and unset thresholds are recognised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sae.errors import UserError
from sae.formats.readers.registry import read
from tests.unit.sae.formats.saes import SAES


def changed(tmp_path: Path, case: str, section: str, **changes: Any) -> Path:
    folder = tmp_path / "sae"
    shutil.copytree(SAES / "dictionary_learning" / case, folder)
    config = json.loads((folder / "config.json").read_text())
    config.setdefault(section, {}).update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("changes", "reason"), [
    ({"dict_class": "os.system"}, "dict_class 'os.system' cannot be read; supported are AutoEncoder, "),
    ({"dict_class": None}, "dict_class '' cannot be read"),
    ({"activation_dim": 13}, "activation_dim is 13, but the tensors have 12"),
    ({"dict_size": 12}, "dict_size is 12, but the tensors have 40")])
def test_a_config_of_another_dictionary_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read(changed(tmp_path, "topk", "trainer", **changes))


@pytest.mark.parametrize("k", [0, 41])
def test_k_must_be_in_the_file(tmp_path: Path, k: int) -> None:
    folder = changed(tmp_path, "batch_topk", "trainer")
    tensors = torch.load(folder / "ae.pt", weights_only=True)
    tensors["k"] = torch.tensor(k)
    torch.save(tensors, folder / "ae.pt")
    with pytest.raises(UserError, match=rf"k is {k}.0, but should be from 1 to 40"):
        read(folder)


def test_a_threshold_that_was_never_set_is_calibrated() -> None:
    unset, known = (read(SAES / "dictionary_learning" / case) for case in ("batch_topk_unset", "batch_topk"))
    assert unset.calibrate
    assert unset.weights.threshold is not None
    assert float(unset.weights.threshold) == 0
    assert not known.calibrate


def test_the_biases_of_a_backup_are_in_other_units() -> None:
    backup = SAES / "dictionary_learning" / "batch_topk_backup"
    factor = float(torch.load(backup / "ae.pt", weights_only=True)["norm_factor"])
    found = read(backup)
    assert found.weights.input_scale == pytest.approx(1 / factor)
    assert any("backup of an interrupted run" in note for note in found.notes)
    assert read(SAES / "dictionary_learning" / "batch_topk").weights.input_scale == 1


@pytest.mark.parametrize(("io", "hook", "out_hook"), [
    ("out", "blocks.3.hook_mlp_out", ""), ("in", "blocks.3.mlp.hook_in", ""),
    ("in_and_out", "blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out")])
def test_the_buffer_says_which_side_of_a_module_is_read(tmp_path: Path, io: str, hook: str, out_hook: str) -> None:
    folder = changed(tmp_path, "topk", "buffer", io=io, ctx_len=64)
    config = json.loads((folder / "config.json").read_text())
    config["trainer"]["submodule_name"] = "model.layers.3.mlp"
    (folder / "config.json").write_text(json.dumps(config))
    found = read(folder)
    assert (found.hook, found.out_hook, found.context_length) == (hook, out_hook, 64)
    assert found.weights.transcoder == (io == "in_and_out")
