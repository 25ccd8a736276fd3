"""Every command of the guide is one that the program understands, and the shorter ones are carried out."""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.main import get_command

from app.cli import app
from app.jobs.launchers.slurm import SlurmLauncher
from app.jobs.places import launcher_names, make_clusters
from app.pages.system.guide import chapters
from app.settings import Settings
from sae.specs.registry import SPECS
from sae.store.build import Build
from tests import ROOT

COMMANDS = get_command(app)
LINES = [(name, line) for name, document in chapters().items() for line in document.commands]
VARIABLES = {"HOST", "PORT"} | {f"SAESCOPE_{name.upper()}" for name in Settings.model_fields}


def words_of(line: str) -> list[str]:
    """Split a command, without the variables before it, which must be settings."""
    words = shlex.split(line)
    while "=" in words[0]:
        assert words.pop(0).partition("=")[0] in VARIABLES, line
    return words


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the command and its values, as the command line itself reads them."""
    command, rest = COMMANDS, words
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]  # type: ignore[union-attr]
    if command.name == "create-admin":
        rest = [*rest, "--name", "ada", "--password", "correct horse"]  # it would ask
    return str(command.name), command.make_context(str(command.name), list(rest)).params


@pytest.mark.parametrize(("chapter", "line"), LINES, ids=[f"{name}: {line[:60]}" for name, line in LINES])
def test_a_command_of_the_guide_is_understood(chapter: str, line: str) -> None:
    words = words_of(line)
    if words[0] == "saescope":
        kind, values = parsed(words[1:])
        if kind in SPECS:
            SPECS[kind](**{name: value for name, value in values.items() if value is not None})
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[:2] == ["python", "-m"]:
        source = (ROOT / (words[2].replace(".", "/") + ".py")).read_text(encoding="utf-8")
        assert all(f'"{option}"' in source for option in words if option.startswith("--"))
    elif words[:2] == ["pip", "install"]:
        (extra,) = re.findall(r"saescope\[(\w+)\]", line)
        assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    elif words[0] == "curl":
        assert re.search(r"http://127\.0\.0\.1:8000/demo/2-res-batchtopk-4k/latents\.(csv|parquet)\?", line)
    elif words[0] == "torchrun":
        assert words[-4:-1] == ["-m", "sae", "run"]
    else:
        assert words[0] in ("docker", "tensorboard"), line


def test_python_code_of_the_guide_is_python() -> None:
    for path in (ROOT / "docs" / "guide").glob("*.md"):
        for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            compile(block, path.name, "exec")


# What makes a run of the guide small enough for a test; an option that is given twice counts as given last.
_TRAINED = ["--tokens", "8192", "--n-latents", "64", "--k", "4", "--batch-tokens", "512", "--buffer-tokens", "4096",
            "--eval-tokens", "1024", "--ce-tokens", "256", "--index-tokens", "4096", "--layer", "2"]
_SMALL = {"train": _TRAINED,
          "sweep": ["--tokens", "4096", "--n-latents", "64,128", "--k", "4", "--batch-tokens", "512", "--buffer-tokens",
                    "4096", "--eval-tokens", "1024", "--ce-tokens", "256"],
          "activations": ["--tokens", "20000"], "index": ["--index-tokens", "4096", "--shards", "2"],
          "evaluate": ["--eval-tokens", "1024", "--ce-tokens", "256"], "steer": ["--length", "4"],
          "compare": ["--compare-tokens", "2048"]}
_ELSEWHERE = ("saescope demo", "--explainer endpoint")  # the whole demo run, and a language model at an address


def test_a_server_that_the_guide_starts_has_its_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the settings of each command as the program does; `/shared/saescope` stands for a folder here."""
    found = []
    for line in (line for name, line in LINES if name == "cluster" and line.endswith("saescope serve")):
        with monkeypatch.context() as patch:
            for word in shlex.split(line)[:-2]:
                patch.setenv(*word.replace("/shared/saescope", str(tmp_path)).split("=", 1))
            settings = Settings()
        (cluster,) = make_clusters(settings)
        found.append((cluster.name, launcher_names(settings)[0], settings.home))
        if isinstance(cluster, SlurmLauncher):
            assert cluster.options == ["--partition=gpu", "--time=12:00:00"]
    assert found == [("ray", "local", tmp_path), ("slurm", "slurm", tmp_path)]


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_the_commands_of_four_chapters_run_on_stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carry out the first hour, own model, steering and cluster with the embedded model and a tiny text."""
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "sae" / "store").glob("*.py"))]
    pq.write_table(pa.table({"content": texts * 3}), tmp_path / "books.parquet")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def carry_out(line: str) -> None:
        words = words_of(line)[1:]
        assert COMMANDS.main([*words, *_SMALL.get(words[0], ())], standalone_mode=False) in (0, None), line

    try:
        carry_out(f"saescope train --name 2-res-batchtopk-4k --text {tmp_path}/books.parquet --text-column content")
        (path,) = (tmp_path / "data" / "builds" / "demo" / "2-res-batchtopk-4k").glob("*.duckdb")
        build = Build.open(path)
        first, second = (row.latent for row in build.latents("density", True).rows[:2])
        build.close()
        stand_ins = {"/models/my-llm": "demo", "/data/books.parquet": f"{tmp_path}/books.parquet", "my-llm/": "demo/",
                     "--latent 308": f"--latent {first}", "--latent 9": f"--latent {second}",
                     "--name small-topk": f"--name small-topk --text {tmp_path}/books.parquet --text-column content"}
        for line in (line for name, line in LINES if name in ("first-hour", "own-model", "steering", "cluster")):
            if line.startswith("saescope") and not any(part in line for part in _ELSEWHERE):
                for said, stand_in in stand_ins.items():
                    line = line.replace(said, stand_in)
                carry_out(line)
        made = {path.parent.name for path in (tmp_path / "data" / "saes").rglob("sae.json")}
        assert made >= {"2-res-batchtopk-4k", "small-topk", "layer6-final", "from-kept"}
        assert {name[:6] for name in made if name.endswith("-k4")} == {"1-res-", "2-res-"}, "the grid of two layers"
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
