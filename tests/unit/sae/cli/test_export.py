"""Tests of `saescope export`: the files that it writes, and the input that it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sae.cli.main import app
from sae.errors import UserError
from sae.formats.dashboards.saedashboard import files_of
from sae.formats.writers.kinds import KINDS
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace
from tests.builds import make_build
from tests.unit.sae.formats.writers.test_saelens import make_sae

SAE = "demo/2-res"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    make_sae("batch_topk").save(Workspace(root).sae(SAE))
    make_build(Workspace(root).build(SAE, "index-1"), n_latents=40, n_contexts=8, sae_id=SAE)
    return root


def run(home: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setenv("SAESCOPE_HOME", str(home))
    done = CliRunner().invoke(app, ["export", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    out = tmp_path / "out"
    assert run(home, monkeypatch, "--sae", SAE, "--format", kind, "--out", str(out)) == str(out)
    expected = {
        "saelens": ["cfg.json", "sae_weights.safetensors"], "saescope": ["sae.json", "sae.safetensors"],
        "parquet": ["README.md", "context.parquet", "latent.parquet", "meta.json", "token.parquet"],
        "neuronpedia": ["v1/demo/2-res/source.jsonl", "v1/demo/2-res/features/batch-0.jsonl.gz"],
        "saedashboard": ["batch-0.json", "run_settings.json"]}[kind]
    for name in expected:
        assert (out / name).stat().st_size > 0
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert bool(files_of(out)) == (kind == "saedashboard")


@pytest.mark.parametrize(("words", "says"), [
    (["--sae", "demo/none"], "there is no SAE 'demo/none' in this workspace; it has: demo/2-res"),
    (["--sae", SAE, "--format", "npz"], "format: 'npz' is not one of"),
    (["--sae", SAE, "--format", "parquet", "--build", "x"], "it has index-1")])
def test_mistakes(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        run(home, monkeypatch, *words, "--out", str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_dashboard_has_no_weights_to_export(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(home, tmp_path / "home")
    config = make_sae().config | {"weights": "none"}
    write_json(tmp_path / "home" / "saes" / "demo" / "bare" / "sae.json", config | {"id": "demo/bare"})
    with pytest.raises(UserError, match="demo/bare has no weights here"):
        run(tmp_path / "home", monkeypatch, "--sae", "demo/bare", "--out", str(tmp_path / "out"))
    with pytest.raises(UserError, match="no index yet"):
        run(tmp_path / "home", monkeypatch, "--sae", "demo/bare", "--format", "parquet", "--out", str(tmp_path / "out"))
