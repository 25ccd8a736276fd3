"""Runs that keep activations, and trainings on them: killed at any moment, they end with the same weights."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError
from sae.runs.create import start
from sae.runs.execute import EXIT_OK, EXIT_USER
from sae.runs.folder import RunFolder
from sae.runs.names import kept_name
from sae.runs.space import bytes_needed
from sae.specs.registry import ActivationsSpec, SweepSpec, TrainSpec
from sae.workspace.paths import Workspace
from tests.runs import begin, end_of, wait_for
from tests.unit.sae.runs.test_execute import text

__all__ = ["text"]  # a fixture

COMMON: dict[str, Any] = {
    "context_length": 32, "tokens": 8_000, "batch_tokens": 256, "buffer_tokens": 4096, "eval_tokens": 1000,
    "ce_tokens": 256, "device": "cpu", "index": False, "n_latents": 128, "k": 8, "reuse": 2}
EVERY_LAYER = {**COMMON, "architecture": "batch_topk", "layers": "0,3"}
NAMES = [f"demo/{layer}-res-batchtopk-128-k8" for layer in (0, 3)]


def new_run(root: Path, text: Path, kind: str, values: dict[str, Any]) -> tuple[Workspace, RunFolder]:
    workspace = Workspace(root)
    return workspace, start(kind, {"text": str(text), **values}, workspace)


def test_an_sae_for_every_layer_in_one_run(tmp_path: Path, text: Path) -> None:
    workspace, folder = new_run(tmp_path, text, "sweep", EVERY_LAYER)
    assert end_of(begin(folder.path)) == EXIT_OK, folder.log.read_text()
    assert workspace.sae_ids() == NAMES
    for layer, name in zip((0, 3), NAMES, strict=True):
        sae = Autoencoder.load(workspace.sae(name))
        assert sae.hook == f"blocks.{layer}.hook_resid_post"
        assert 0 < sae.config["metrics"]["fvu"] < 1.5
    status = folder.status()
    assert status is not None
    assert [member["name"] for member in status.result["members"]] == NAMES
    rows = [row for row in folder.progress() if "step" in row]
    assert [[row["step"] for row in rows if row["member"] == member][-1] for member in range(2)] == [8_000 // 256] * 2
    assert not folder.checkpoints.exists(), "the activations went with the checkpoints"


@pytest.mark.heavy
def test_killed_while_it_keeps_and_while_it_trains_it_ends_with_the_same_weights(tmp_path: Path, text: Path) -> None:
    whole, folder = new_run(tmp_path / "whole", text, "sweep", EVERY_LAYER)
    undisturbed = begin(folder.path)
    resumed, other = new_run(tmp_path / "resumed", text, "sweep", EVERY_LAYER)
    for name in ("activations/chunk-00000.json", "train-1.pt"):
        process = begin(other.path)
        wait_for(process, (other.checkpoints / name).exists)
        process.kill()
        assert end_of(process) == -signal.SIGKILL
        assert resumed.sae_ids() == []
    assert end_of(begin(other.path)) == EXIT_OK, other.log.read_text()
    assert end_of(undisturbed) == EXIT_OK, folder.log.read_text()
    for name in NAMES:
        one, two = (load_file(workspace.sae(name) / "sae.safetensors") for workspace in (whole, resumed))
        assert all(one[key].equal(two[key]) for key in one)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Workspace:
    """Keep the activations of two layers, with their transcoders' sites."""
    workspace, folder = new_run(tmp_path_factory.mktemp("kept"), text, "activations", {
        "name": "two", "layers": "1,2", "site": "ln2.hook_normalized", "out_site": "hook_mlp_out", "tokens": 6000,
        "context_length": 32, "device": "cpu"})
    assert end_of(begin(folder.path)) == EXIT_OK, folder.log.read_text()
    status = folder.status()
    assert status is not None
    assert status.result["activations"] == "two"
    assert status.result["sites"][:2] == ["blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"]
    assert "MB on disk for 4 sites" in folder.log.read_text()
    files = list(workspace.activations("two").glob("*.bin"))
    assert sum(path.stat().st_size for path in files) == status.result["bytes"]
    return workspace


TRANSCODER = {**COMMON, "layer": 2, "site": "ln2.hook_normalized", "out_site": "hook_mlp_out", "activations": "two",
              "normalize": "dataset", "name": "over"}


def test_a_transcoder_is_trained_on_kept_activations(kept: Workspace, text: Path) -> None:
    _, folder = new_run(kept.root, text, "train", TRANSCODER)
    assert end_of(begin(folder.path)) == EXIT_OK, folder.log.read_text()
    sae = Autoencoder.load(kept.sae("demo/over"))
    assert sae.is_transcoder
    assert sae.config["training"]["activations"] == "two"


@pytest.mark.parametrize(("changes", "words"), [
    ({"activations": "none"}, "none is not there or not finished"),
    ({"layer": 0}, "two has no blocks.0.ln2.hook_normalized")])
def test_activations_that_do_not_suit_are_refused(
    kept: Workspace, text: Path, changes: dict[str, Any], words: str
) -> None:
    _, folder = new_run(kept.root, text, "train", {**TRANSCODER, "name": "", **changes})
    assert end_of(begin(folder.path)) == EXIT_USER
    status = folder.status()
    assert status is not None
    assert words in (status.error or "")
    assert (status.error or "").startswith("activations: ")
    shutil.rmtree(folder.path)


def test_the_space_is_known_before(workspace: Workspace) -> None:
    spec = ActivationsSpec(layers=(0, 1, 2), tokens=1_000_000)
    assert bytes_needed(spec, workspace) == 2 * 1_000_000 * 3 * 256
    assert spec.hooks == [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    one = SweepSpec(tokens=1_000_000, index=False)
    every = one.model_copy(update={"layers": (0, 1, 2, 3)})
    assert bytes_needed(every, workspace) - 4 * bytes_needed(one, workspace) == 2 * 1_000_000 * 4 * 256
    assert kept_name(spec, RunFolder(Path("activations-20261129-aa"))) == "20261129-aa"


def test_a_layer_that_the_model_lacks_is_refused_at_once(workspace: Workspace) -> None:
    for kind, values in (("sweep", {"layers": "1,9"}), ("activations", {"layers": "9"})):
        with pytest.raises(UserError, match="9"):
            start(kind, values, workspace)
    assert len(SweepSpec(layers="0,1", n_latents="2048", k="16", architecture="topk").members()) == 2  # type: ignore[arg-type]
    assert TrainSpec(layer=3).all_layers == (3,)
    assert json.loads(SweepSpec(layers="0,1").model_dump_json())["layers"] == [0, 1]  # type: ignore[arg-type]
