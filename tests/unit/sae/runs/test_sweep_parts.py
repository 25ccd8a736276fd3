"""Tests of a sweep in parts: one of them is interrupted, and the result is that of an undivided sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.runs.create import start
from sae.runs.execute import EXIT_INTERRUPTED, EXIT_OK, EXIT_USER, execute
from sae.runs.folder import RunFolder
from sae.runs.parts import parts_folder
from sae.runs.progress import Reporter
from sae.specs.registry import parse_spec
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace

SWEEP: dict[str, Any] = {
    "architecture": "batch_topk", "n_latents": "32,64", "k": "4", "layers": "0,1", "context_length": 16,
    "tokens": 1_000, "batch_tokens": 100, "buffer_tokens": 1_024, "eval_tokens": 1_000, "ce_tokens": 256,
    "device": "cpu", "name": "mine", "index": False}
FACTS = ("run", "created", "seconds", "tokens_per_s", "saes_trained_together")  # what differs between two runs


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(f"def f{i}(x, y):\n    return [x + {i}, y * {i * 7 % 11}]\n" * 6 for i in range(60)))
    return path


@pytest.fixture(autouse=True)
def one_model(demo_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae.lm.conformance.opening.open_model", lambda *_: demo_lm)
    monkeypatch.setattr("sae.training.loop._LOG_S", 0.0)  # every row, whatever the clock says


def part_of(sweep: RunFolder, workspace: Workspace, number: int) -> RunFolder:
    folder = RunFolder(workspace.run(f"{sweep.id}-part-{number}"))
    folder.create("sweep-part", {"run": sweep.id, "part": number})
    return folder


def result_of(folder: RunFolder) -> dict[str, Any]:
    status = folder.status()
    assert status is not None
    return status.result


def facts(value: dict[str, Any]) -> dict[str, Any]:
    return {key: facts(one) if isinstance(one, dict) else one for key, one in value.items() if key not in FACTS}


def rows_of(folder: RunFolder) -> list[dict[str, Any]]:
    timed = ("time", "tokens_per_s", "lm_tokens_per_s", "sae_tokens_per_s", "lm_share", "lm_fill_s")
    return [{key: value for key, value in row.items() if key not in timed} for row in folder.progress()]


@pytest.mark.parametrize("by_hand", [False, True], ids=["all parts", "one part by the sweep itself"])
def test_the_saes_and_the_page_are_those_of_an_undivided_sweep(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    values = {**SWEEP, "text": str(text)} | ({"layers": "", "layer": 0} if by_hand else {})
    here, there = Workspace(tmp_path / "here"), Workspace(tmp_path / "there")
    alone = start("sweep", values, here)
    assert execute(alone, here) == EXIT_OK
    sweep = start("sweep", {**values, "parts": 2}, there)
    for number in (1,) if by_hand else (2, 1):
        part = part_of(sweep, there, number)
        if number == 1:  # it is stopped in the middle of its training, and goes on
            with monkeypatch.context() as patch:
                patch.setattr(Reporter, "check", _stop_at(500))
                assert execute(part, there) == EXIT_INTERRUPTED
        assert execute(part, there) == EXIT_OK, part.status()
        assert {member["sae"] for member in result_of(part)["members"]} <= set(there.sae_ids())
    assert execute(sweep, there) == EXIT_OK, sweep.status()

    assert there.sae_ids() == here.sae_ids()
    assert len(there.sae_ids()) == len(parse_spec("sweep", values).members())  # type: ignore[union-attr]
    for sae_id in here.sae_ids():
        one, other = (home.sae(sae_id) for home in (here, there))
        assert (one / "sae.safetensors").read_bytes() == (other / "sae.safetensors").read_bytes()
        configs = [json.loads((folder / "sae.json").read_text()) for folder in (one, other)]
        assert facts(configs[0]) == facts(configs[1])
        assert configs[1]["run"] == sweep.id
        assert not (other / "claim.json").exists()
    assert result_of(alone)["members"] == result_of(sweep)["members"]
    assert rows_of(alone) == rows_of(sweep)
    assert not sweep.checkpoints.exists()


def _stop_at(tokens: int) -> Any:
    from sae.errors import Interrupted

    def check(reporter: Reporter) -> None:
        if reporter.status.phase == "training" and reporter.status.done >= tokens:
            raise Interrupted

    return check


def test_saes_that_diverge_fail_alone_and_a_sweep_of_them_fails(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    sweep = start("sweep", {**SWEEP, "text": str(text), "layers": "", "layer": 0, "parts": 2}, workspace)

    def diverge(*_: object, **__: object) -> Any:
        raise UserError("lr: the loss is not a number", "lr")

    with monkeypatch.context() as patch:
        patch.setattr("sae.runs.train.train_all", diverge)
        for number in (1, 2):
            assert execute(part_of(sweep, workspace, number), workspace) == EXIT_OK
    assert execute(sweep, workspace) == EXIT_USER
    status = sweep.status()
    assert status is not None
    assert status.error == "lr: the loss is not a number"


def test_a_part_that_the_sweep_trains_itself_is_refused(workspace: Workspace) -> None:
    sweep = start("sweep", {**SWEEP, "parts": 2}, workspace)
    write_json(parts_folder(sweep) / "rest.json", [2, 3])
    part = part_of(sweep, workspace, 2)
    assert execute(part, workspace) == EXIT_USER
    status = part.status()
    assert status is not None
    assert "has begun to train the SAEs of part 2 itself" in str(status.error)


def test_more_parts_than_saes_are_refused(workspace: Workspace) -> None:
    with pytest.raises(UserError, match=r"parts: this sweep has 2 SAEs") as error:
        start("sweep", {"n_latents": "64", "k": "4", "parts": 3}, workspace)
    assert error.value.field == "parts"
