"""Tests of the import run: its measurements, its error messages, and the files that it leaves."""

from __future__ import annotations

import enum
import json
import re
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from sae.autoencoder.artefact import Autoencoder
from sae.autoencoder.config import read_config
from sae.errors import UserError
from sae.formats.foreign import MissingFacts
from sae.runs import import_check, import_sae
from sae.runs.create import start
from sae.runs.execute import EXIT_CANCELLED, EXIT_OK, EXIT_USER, execute
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace
from tests import FIXTURES
from tests.unit.sae.formats import saes

if TYPE_CHECKING:
    from sae.lm.bridge import LanguageModel

Import = Callable[..., tuple[int, RunFolder]]


@pytest.fixture
def imported(workspace: Workspace, demo_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """Return a function that imports a source on a small text and returns (exit code, the run's folder)."""
    from sae.lm.bridge import LanguageModel

    monkeypatch.setattr(LanguageModel, "load", classmethod(lambda cls, name, device: demo_lm))
    text = tmp_path / "text"
    text.mkdir()
    for name in ("ast.py", "dis.py", "enum.py"):
        (text / name).write_bytes((Path(sysconfig.get_paths()["stdlib"]) / name).read_bytes())

    def run(path: Path | str, **settings: Any) -> tuple[int, RunFolder]:
        values = {"index": False, "text": str(text), "check_tokens": 2_000, **settings}
        folder = start("import", {"source": str(path), **values}, workspace)
        return execute(folder, workspace), folder

    return run


def error_of(folder: RunFolder) -> str:
    status = folder.status()
    assert status is not None
    assert status.error is not None
    assert "\n" not in status.error
    return status.error


def test_an_sae_that_reconstructs_is_imported_with_where_it_came_from(
    imported: Import, workspace: Workspace, tmp_path: Path
) -> None:
    code, folder = imported(saes.saelens(tmp_path / "sae", k=200), index=True, index_tokens=1_000)
    assert code == EXIT_OK
    [sae_id] = workspace.sae_ids()
    assert sae_id == "demo/2-res-topk-512"
    config = read_config(workspace.sae(sae_id))
    assert config["run"] == folder.id
    assert (config["architecture"], config["k"], config["context_length"]) == ("topk", 200, 64)
    assert 0 < config["metrics"]["fvu"] < 0.5
    assert config["metrics"]["l0"] == 200
    record = config["imported"]
    assert record["format"] == "SAELens 6.54.12"
    assert record["dtype"] == "float32"
    assert record["claims"] == {"l0": 200.0}
    assert record["measured"] == config["metrics"]
    assert not record["forced"]
    assert len(workspace.build_ids(sae_id)) == 1
    assert not folder.checkpoints.exists()


def test_decoder_norms_do_not_change_the_measurements(imported: Import, workspace: Workspace, tmp_path: Path) -> None:
    for scale in (1.0, 3.0):
        assert imported(saes.saelens(tmp_path / f"{scale}", scale=scale), name=f"x{scale:.0f}")[0] == EXIT_OK
    one, three = (read_config(workspace.sae(f"demo/x{n}")) for n in (1, 3))
    assert one["metrics"]["fvu"] == pytest.approx(three["metrics"]["fvu"], abs=1e-4)
    assert one["metrics"]["mean_activation"] == pytest.approx(three["metrics"]["mean_activation"], rel=1e-4)
    assert any("decoder norms" in text for text in three["imported"]["folds"])


@pytest.mark.parametrize(("config", "better"), [
    ({"apply_b_dec_to_input": False}, "--subtract-b-dec yes"),
    ({"normalize_activations": "layer_norm"}, "--normalize none"),
])
def test_a_misread_sae_is_refused_with_its_fvu_and_the_right_option(
    imported: Import, workspace: Workspace, tmp_path: Path, config: dict[str, Any], better: str
) -> None:
    code, folder = imported(saes.saelens(tmp_path / "sae", k=200, **config))
    assert code == EXIT_USER
    error = error_of(folder)
    assert error.startswith("source: FVU ")
    assert f"with {better} it would be 0." in error
    assert "--force" in error
    assert workspace.sae_ids() == []
    assert not list(workspace.root.glob("saes/*/*"))


def test_a_transposed_square_decoder_is_refused_and_can_be_forced(
    imported: Import, workspace: Workspace, tmp_path: Path
) -> None:
    facts = {"model": "demo", "hook": "blocks.2.hook_resid_post", "bos": "yes", "architecture": "relu",
             "subtract_b_dec": "no"}
    assert imported(saes.square(tmp_path / "right", transposed=False), name="right", **facts)[0] == EXIT_OK
    assert read_config(workspace.sae("demo/right"))["metrics"]["fvu"] < 1e-3
    wrong = saes.square(tmp_path / "wrong", transposed=True)
    code, folder = imported(wrong, **facts)
    assert code == EXIT_USER
    assert "with W_dec transposed it would be 0.000" in error_of(folder)
    assert imported(wrong, name="forced", force=True, **facts)[0] == EXIT_OK
    forced = read_config(workspace.sae("demo/forced"))
    assert forced["imported"]["forced"]
    assert forced["metrics"]["fvu"] > 0.9


def test_all_missing_facts_are_asked_for_at_once(workspace: Workspace, tmp_path: Path) -> None:
    path = saes.square(tmp_path / "bare", transposed=False)
    with pytest.raises(MissingFacts) as raised:
        start("import", {"source": str(path)}, workspace)
    assert set(raised.value.asks) == {"model", "hook", "bos", "architecture", "subtract_b_dec"}
    message = str(raised.value)
    assert "\n" not in message
    for name in raised.value.asks:
        assert f"--{name.replace('_', '-')} (" in message
    assert not (workspace.root / "runs").exists()


@pytest.mark.parametrize(("settings", "says"), [
    ({"hook": "blocks.9.hook_resid_post"}, "hook: demo has 4 blocks"),
    ({"hook": "here"}, "hook: 'here' is no known site"),
    ({"model": "./none"}, "model: ./none is not a directory"),
    ({"name": "../x"}, "name: '../x' is not a usable name"),
    ({"context_length": 4}, "context_length: 4 is not between 8 and"),
    ({"context_length": 8192}, "context_length: 8192 is not between 8 and"),
    ({"source": "/nowhere/sae"}, "source: there is no file or folder /nowhere/sae"),
])
def test_impossible_settings_are_refused_in_one_line(
    imported: Import, workspace: Workspace, tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    values = {"path": str(saes.saelens(tmp_path / "sae")), **{"path" if k == "source" else k: v
                                                              for k, v in settings.items()}}
    with pytest.raises(UserError, match=f"^{re.escape(says)}"):
        imported(values.pop("path"), **values)
    assert workspace.sae_ids() == []


def test_the_width_of_the_site_is_checked(imported: Import, tmp_path: Path) -> None:
    code, folder = imported(saes.saelens(tmp_path / "sae"), hook="blocks.2.mlp.hook_post")
    assert code == EXIT_USER
    assert "has width 704, but the SAE has width 256" in error_of(folder)


def test_an_import_that_is_cancelled_leaves_nothing_and_can_be_resumed(
    imported: Import, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = import_check.measure

    def cancelled(*arguments: Any) -> Any:
        next(workspace.root.glob("runs/*")).joinpath("cancel").touch()
        return measure(*arguments)

    def stop(reporter: Any, *arguments: Any, **values: Any) -> None:
        reporter.check()

    monkeypatch.setattr(import_check, "measure", cancelled)
    monkeypatch.setattr("sae.runs.progress.Reporter.row", stop)
    code, folder = imported(saes.saelens(tmp_path / "sae"))
    assert code == EXIT_CANCELLED
    assert not list(workspace.root.glob("saes/*/*"))
    monkeypatch.undo()
    assert execute(folder, workspace) == EXIT_OK
    assert len(workspace.sae_ids()) == 1


def test_a_kill_between_publishing_and_indexing_does_not_import_twice(
    imported: Import, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, folder = imported(saes.saelens(tmp_path / "sae"), index=True, index_tokens=1_000)
    assert code == EXIT_OK
    before = (workspace.sae("demo/2-res-relu-512") / "sae.json").read_bytes()
    for build in workspace.builds("demo/2-res-relu-512").iterdir():
        build.unlink()
    (folder.path / "status.json").unlink()
    monkeypatch.setattr(import_sae, "_checked", None)
    assert execute(folder, workspace) == EXIT_OK
    assert (workspace.sae("demo/2-res-relu-512") / "sae.json").read_bytes() == before
    assert len(workspace.build_ids("demo/2-res-relu-512")) == 1


def test_names_that_are_taken_get_a_number_or_are_refused(
    imported: Import, workspace: Workspace, tmp_path: Path
) -> None:
    path = saes.saelens(tmp_path / "sae")
    assert [imported(path)[0] for _ in range(2)] == [EXIT_OK, EXIT_OK]
    assert workspace.sae_ids() == ["demo/2-res-relu-512", "demo/2-res-relu-512-2"]
    with pytest.raises(UserError, match=r"^name: the SAE demo/2-res-relu-512 already exists"):
        imported(path, name="2-res-relu-512")


def test_a_zip_of_a_folder(imported: Import, workspace: Workspace, tmp_path: Path) -> None:
    folder = saes.saelens(tmp_path / "sae")
    with zipfile.ZipFile(tmp_path / "sae.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"a/b/{file.name}")
    assert imported(tmp_path / "sae.zip")[0] == EXIT_OK
    assert len(workspace.sae_ids()) == 1


def test_a_threshold_that_was_never_set_is_calibrated(
    imported: Import, workspace: Workspace, tmp_path: Path
) -> None:
    folder, U_DD = tmp_path / "ae", saes.basis()
    W_dec_LD = torch.cat([U_DD, -U_DD])
    folder.mkdir()
    torch.save({"encoder.weight": W_dec_LD, "encoder.bias": torch.zeros(512), "decoder.weight": W_dec_LD.T.contiguous(),
                "b_dec": torch.zeros(256), "k": torch.tensor(40), "threshold": torch.tensor(-1.0)}, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {
        "dict_class": "BatchTopKSAE", "activation_dim": 256, "dict_size": 512, "k": 40, "lm_name": "demo",
        "submodule_name": "resid_post_layer_2"}}))
    assert imported(folder, bos="yes")[0] == EXIT_OK
    config = read_config(workspace.sae(workspace.sae_ids()[0]))
    assert config["metrics"]["l0"] == pytest.approx(40, rel=0.01)
    assert config["threshold"]["calibrated"] > 0


def test_a_transcoder_is_measured_at_its_output(
    imported: Import, workspace: Workspace, tmp_path: Path, demo_lm: LanguageModel
) -> None:
    hooks = ["blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"]
    tokens = demo_lm.encode(Path(enum.__file__).read_text())[: 100 * 63]
    tokens_PS = torch.tensor(tokens).reshape(100, 63)
    x_PSD, y_PSD = demo_lm.activations_at(torch.nn.functional.pad(tokens_PS, (1, 0), value=demo_lm.bos_id), hooks)
    x_ND, y_ND = x_PSD[:, 1:].flatten(0, 1), y_PSD[:, 1:].flatten(0, 1)
    W_skip_DD = torch.linalg.lstsq(x_ND, y_ND - y_ND.mean(0)).solution
    folder = tmp_path / "run" / "layers.1.mlp"
    folder.mkdir(parents=True)
    save_file({"encoder.weight": torch.randn(300, 256) / 99, "encoder.bias": torch.zeros(300),
               "W_dec": torch.randn(300, 256) / 999, "b_dec": y_ND.mean(0), "W_skip": W_skip_DD.T.contiguous()},
              folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"activation": "topk", "k": 4, "transcode": True, "d_in": 256,
                                                 "num_latents": 300, "skip_connection": True}))
    code, run = imported(folder, model="demo")
    assert code == EXIT_OK, run.status()
    config = read_config(workspace.sae(workspace.sae_ids()[0]))
    assert config["site"] == {"layer": 1, "hook": hooks[0], "out_hook": hooks[1]}
    assert config["metrics"]["fvu"] < 0.9
    assert Autoencoder.load(workspace.sae(workspace.sae_ids()[0])).is_transcoder


@pytest.mark.parametrize(("setting", "value"), [("k", 3), ("bos", "yes"), ("input_scale", 2.0)])
def test_a_dashboard_refuses_settings_of_weights(imported: Import, setting: str, value: Any) -> None:
    code, folder = imported(FIXTURES / "dashboards" / "saedashboard", model="demo", **{setting: value})
    assert code == EXIT_USER
    assert error_of(folder).startswith(f"{setting}: is for an SAE with weights, but ")


# ---- Hugging Face


def hub_cache(root: Path, folder: Path, repo: str, inside: str) -> None:
    """Write a repository to the cache as the hub's client does: blobs, and a snapshot of links to them."""
    base = root / f"models--{repo.replace('/', '--')}"
    snapshot = base / "snapshots" / ("a" * 40)
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text("a" * 40)
    (base / "blobs").mkdir()
    for file in folder.iterdir():
        (base / "blobs" / file.name).write_bytes(file.read_bytes())
        link = snapshot / inside / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(base / "blobs" / file.name)


@pytest.mark.parametrize("address", ["me/saes/layer_2", "hf://me/saes/layer_2",
                                     "https://huggingface.co/me/saes/tree/main/layer_2"])
def test_a_hub_folder_comes_from_the_cache_without_a_network(
    imported: Import, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    hub_cache(tmp_path / "hub", saes.saelens(tmp_path / "sae"), "me/saes", "layer_2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    code, folder = imported(address)
    assert code == EXIT_OK, folder.status()
    assert read_config(workspace.sae(workspace.sae_ids()[0]))["imported"]["source"] == address


def test_a_hub_that_cannot_be_reached_is_one_line(imported: Import) -> None:
    code, folder = imported("me/nothing")
    assert code == EXIT_USER
    assert error_of(folder).startswith("source: me/nothing is not a local path and could not be fetched")
