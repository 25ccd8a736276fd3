"""Thresholds and sites that a file lacks, and settings that it contradicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sae.errors import UserError
from sae.formats.readers.registry import read
from tests.unit.sae.formats.readers.tensors import D, L, random
from tests.unit.sae.formats.saes import SAES, edited


@pytest.mark.parametrize(("case", "changes", "reason"), [
    ("saelens/v4_topk", {"activation_fn_str": "tanh-relu"}, "activation_fn_str 'tanh-relu'"),
    ("saelens/v3_standard", {"activation_fn_str": "topk", "activation_fn_kwargs": {}}, "has no k"),
    ("saelens/topk", {"k": None}, "k is None")])
def test_a_rule_that_cannot_be_read_is_refused(
    tmp_path: Path, case: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError) as raised:
        read(edited(tmp_path, case, **changes))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def batch_topk(folder: Path, **more: torch.Tensor) -> Path:
    """Write a BatchTopK of dictionary_learning, with or without a threshold."""
    folder.mkdir()
    torch.save({**random(encoder__weight=(L, D), encoder__bias=(L,), decoder__weight=(D, L), b_dec=(D,)),
                "k": torch.tensor(4), **more}, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {
        "dict_class": "BatchTopKSAE", "activation_dim": D, "dict_size": L, "k": 4, "lm_name": "demo",
        "submodule_name": "resid_post_layer_2"}}))
    return folder


def test_a_batchtopk_without_threshold_is_calibrated_or_given_one(tmp_path: Path) -> None:
    folder = batch_topk(tmp_path / "ae")
    assert read(folder).calibrate
    given = read(folder, {"threshold": 0.7})
    assert not given.calibrate
    assert given.weights.threshold == pytest.approx(0.7)
    assert not read(batch_topk(tmp_path / "with", threshold=torch.tensor(0.3))).calibrate
    bare = tmp_path / "bare.pt"
    torch.save(random(W_enc=(D, L), W_dec=(L, D), b_enc=(L,), b_dec=(D,)), bare)
    foreign = read(bare, {"architecture": "batch_topk", "k": 4, "subtract_b_dec": "yes"})
    assert (foreign.weights.architecture, foreign.weights.k, foreign.calibrate) == ("batch_topk", 4, True)


def test_a_training_checkpoint_of_saelens_without_threshold_is_calibrated(tmp_path: Path) -> None:
    folder = edited(tmp_path, "saelens/topk", architecture="batchtopk", k=4)
    foreign = read(folder)
    assert (foreign.weights.architecture, foreign.weights.k, foreign.calibrate) == ("batch_topk", 4, True)


@pytest.mark.parametrize(("case", "given", "says"), [
    ("saelens/jumprelu", {"architecture": "topk"}, "architecture: topk is given, but sae_weights.safetensors"),
    ("saelens/topk", {"k": 3}, "k: 3 is given, but sae_weights.safetensors"),
    ("saelens/standard", {"k": 3}, "states none: relu has no k"),
    ("saelens/topk", {"threshold": 0.5}, "threshold: the one threshold of a BatchTopK is given")])
def test_a_setting_that_contradicts_the_file_is_refused(case: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(SAES / case, given)
    assert says in str(caught.value)
    assert caught.value.field in given


def test_two_linear_layers_with_thresholds_are_a_jumprelu(tmp_path: Path) -> None:
    theta_L = torch.rand(L)
    t = random(encoder__weight=(L, D), encoder__bias=(L,), decoder__weight=(D, L), decoder__bias=(D,))
    save_file({**t, "log_jumprelu_threshold": theta_L.log(), "extra": torch.ones(3)}, tmp_path / "a.safetensors")
    foreign = read(tmp_path / "a.safetensors")
    assert foreign.weights.architecture == "jumprelu"
    torch.testing.assert_close(foreign.weights.threshold, theta_L)
    assert "tensors that were not used: extra" in foreign.notes


@pytest.mark.parametrize(("hook", "asked"), [("blocks.0.hook_pos_embed", True), ("blocks.3.hook_resid_pre", False)])
def test_a_site_that_is_not_here_is_named(tmp_path: Path, hook: str, asked: bool) -> None:
    foreign = read(edited(tmp_path, "saelens/standard", metadata={"hook_name": hook}))
    assert ("hook" in foreign.asks) is asked
    assert not asked or f"the file names {hook!r}, which is no site here" in foreign.asks["hook"]
