"""Tests of the command line: a user error is one line on stderr and exit code 2."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sae.cli.main import main
from sae.errors import UserError
from sae.runs.create import start
from sae.runs.execute import EXIT_FAILED, EXIT_OK, EXIT_USER
from sae.runs.folder import RunFolder, Status
from sae.specs.registry import POSITIONAL, SPECS, TrainSpec
from sae.workspace.paths import Workspace

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Restore the signal handlers, which a run in this process replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Call `saescope <arguments>` in this process and return (exit code, stdout, stderr)."""
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "home"))

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["saescope", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        code = caught.value.code
        return code if isinstance(code, int) else 0, out, err

    return call


def folder_with(path: Path, content: str) -> Path:
    path.mkdir(parents=True)
    (path / "spec.json").write_text(content)
    return path


BAD_SPECS: dict[str, tuple[str, str]] = {
    "not JSON": ('{"kind": "train",', "spec.json is not the spec of a run"),
    "a list": ("[]", "spec.json is not the spec of a run"),
    "no kind": ('{"spec": {}}', "spec.json is not the spec of a run"),
    "no spec": ('{"kind": "train"}', "spec.json is not the spec of a run"),
    "unknown kind": ('{"kind": "dance", "spec": {}}', "kind: 'dance' is not one of train, "),
    "kind of another type": ('{"kind": ["train"], "spec": {}}', "kind: "),
    "unknown setting": ('{"kind": "train", "spec": {"widht": 3}}', "widht: "),
    "wrong type": ('{"kind": "train", "spec": {"k": "many"}}', "k: "),
    "out of range": ('{"kind": "train", "spec": {"k": 0}}', "k: "),
    "contradiction": ('{"kind": "train", "spec": {"k": 64, "n_latents": 32}}', "k: 64 latents per token, but"),
    "no such block": ('{"kind": "train", "spec": {"layer": 17}}', "layer: demo has 4 blocks, 0 to 3"),
    "no such model": ('{"kind": "train", "spec": {"model": "./none"}}', "model: ./none is not a directory"),
    "no such SAE": ('{"kind": "index", "spec": {"sae": "demo/none"}}', "sae: there is no SAE in"),
    "impossible SAE": ('{"kind": "evaluate", "spec": {"sae": "../x"}}', "model: '..' is not a usable name"),
    "impossible name": ('{"kind": "train", "spec": {"name": "a b"}}', "name: 'a b' is not a usable name"),
}


BAD_SETTINGS: dict[str, tuple[str, ...]] = {  # field at fault: the command's arguments
    "k": ("train", "--k", "64", "--n-latents", "32"),
    "batch_tokens": ("train", "--n-latents", "1048576", "--batch-tokens", "4096"),
    "site": ("train", "--site", "hook_resid_nowhere"),
    "out_site": ("train", "--architecture", "gated", "--site", "hook_mlp_in", "--out-site", "hook_mlp_out"),
    "bandwidth": ("train", "--architecture", "jumprelu", "--bandwidth", "0"),
    "prefixes": ("train", "--architecture", "matryoshka", "--prefixes", "1/2"),
    "b_dec_init": ("train", "--b-dec-init", "zeros"),
    "buffer_dtype": ("train", "--buffer-dtype", "int8"),
    "layer": ("sweep", "--layer", "9"),
    "n_latents": ("sweep", "--n-latents", "1024,many"),
    "architecture": ("sweep", "--architecture", "topk,tpok"),
}


@pytest.mark.parametrize("field", BAD_SETTINGS)
def test_a_bad_setting_is_one_line_before_anything_is_made(command: Command, tmp_path: Path, field: str) -> None:
    code, _, err = command(*BAD_SETTINGS[field])
    assert code == EXIT_USER == 2
    assert err.startswith(f"error: {field}: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "home" / "runs").exists()


@pytest.mark.parametrize("name", BAD_SPECS)
def test_a_bad_spec_is_one_line_and_exit_code_2(command: Command, tmp_path: Path, name: str) -> None:
    content, message = BAD_SPECS[name]
    folder = folder_with(tmp_path / "home" / "runs" / "train-1", content)
    code, _, err = command("run", folder)
    assert code == EXIT_USER
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err
    status = RunFolder(folder).status()
    assert status is None or (status.state == "failed" and status.error is not None and status.error in err)


def test_a_folder_that_is_no_run_is_refused(command: Command, tmp_path: Path) -> None:
    code, _, err = command("run", tmp_path)
    assert (code, err) == (2, f"error: run: there is no spec.json in {tmp_path}\n")


def test_the_program_itself_says_it_on_stderr(tmp_path: Path) -> None:
    """Run the program as a launcher does, in a separate process."""
    folder = folder_with(tmp_path / "run", '{"kind": "train", "spec": {"k": 0}}')
    command = [sys.executable, "-m", "sae", "run", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_USER
    assert re.fullmatch(r"error: k: .*\n", done.stderr)
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "--k", "0"], "k: "), (["train", "--layer", "9"], "layer: demo has 4 blocks"),
    (["train", "--n-latents", "8", "--k", "9"], "k: 9 latents per token"), (["index", "--sae", "none"], "sae: "),
    (["train", "--normalize", "whiten"], "normalize: "), (["evaluate", "--sae", "demo/none"], "sae: there is no SAE")])
def test_bad_options_are_refused_alike(command: Command, arguments: list[str], message: str) -> None:
    code, _, err = command(*arguments)
    assert code == EXIT_USER
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_every_setting_is_an_option_with_its_default(command: Command) -> None:
    for kind, spec in SPECS.items():
        code, out, _ = command(kind, "--help")
        assert code == 0
        for name in spec.model_fields:
            shown = name.upper() if name == POSITIONAL.get(kind) else f"--{name.replace('_', '-')[:20]}"
            assert shown in out, name


def test_a_run_that_has_succeeded_is_left_as_it_is(command: Command, tmp_path: Path) -> None:
    run = start("train", {}, Workspace(tmp_path / "home"))
    run.write_status(Status(state="succeeded"))
    before = (run.path / "status.json").read_bytes()
    assert command("run", run.path)[0] == EXIT_OK
    assert (run.path / "status.json").read_bytes() == before


def test_an_unexpected_error_is_a_failed_run_with_its_traceback_in_the_log(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise ZeroDivisionError("by hand")

    monkeypatch.setattr("sae.runs.execute._train", broken)
    run = start("train", {}, Workspace(tmp_path / "home"))
    code, _, err = command("run", run.path)
    status = run.status()
    assert code == EXIT_FAILED
    assert status is not None
    assert (status.state, status.error) == ("failed", "ZeroDivisionError: by hand")
    assert "Traceback" in err


def test_a_started_run_is_checked_and_written_with_all_its_settings(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    run = start("train", {"k": 16}, workspace)
    kind, values = run.spec()
    assert kind == "train"
    assert values == TrainSpec(k=16).model_dump()
    assert run.path.parent == workspace.root / "runs"
    assert json.loads((run.path / "spec.json").read_text())["created"] > 0
    with pytest.raises(UserError):
        start("train", {"k": 16, "tokens": 1}, workspace)
    assert len(list((workspace.root / "runs").iterdir())) == 1
