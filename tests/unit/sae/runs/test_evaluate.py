from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sae.errors import Interrupted, UserError
from sae.evaluation import registry
from sae.evaluation.anchors import RANDOM, random_dictionary
from sae.evaluation.measure import Progress, Result, Subject, Value
from sae.evaluation.results import StoredResult, StoredValue, read_result, read_results
from sae.lm.bridge import LanguageModel
from sae.runs import evaluate
from sae.runs.create import start
from sae.runs.evaluate import list_pieces
from sae.runs.execute import EXIT_CANCELLED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USER, execute
from sae.runs.folder import RunFolder
from sae.specs.registry import parse_spec
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace
from tests.unit.conftest import TinySae

SAE = "demo/one"


class Norms:
    """A measure that needs no text: the mean norm of the encoder's rows, plus the seed."""

    calls: list[int] = []  # noqa: RUF012

    def refuse(self, subject: Subject) -> str | None:
        return "no file of labels" if subject.labels else None

    def run(self, subject: Subject, progress: Progress) -> Result:
        self.calls.append(subject.seed)
        progress(1, 2)
        norm = float(subject.sae.W_enc_LD.norm(dim=1).mean())
        return Result("core", (Value("norm", norm + subject.seed, n=subject.sae.n_latents), Value("none", None),
                               Value("l0", 3.0), Value("alive_share", 0.75)),
                      {"nan": float("nan")})


class Refusing(Norms):
    """A measure that finds out while it runs that it cannot be made."""

    def refuse(self, subject: Subject) -> str | None:
        return None

    def run(self, subject: Subject, progress: Progress) -> Result:
        raise UserError("labels: there is only one class", "labels")


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Replace the measures by ones that take no time."""
    made: dict[str, Any] = {"core": Norms, "probing": Refusing}
    Norms.calls = []
    monkeypatch.setattr(evaluate, "load_measure", lambda name, _: (made[name](), {"norm": "The mean norm."}))
    return made


@pytest.fixture
def home(workspace: Workspace, tiny_sae: TinySae, tmp_path: Path, demo_lm: LanguageModel,
         monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a workspace with an SAE and its text."""
    monkeypatch.setattr("sae.lm.conformance.opening.open_model", lambda *_: demo_lm)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"def f{i}(x):\n    return x + {i}\n" * 8 for i in range(80)))
    folder = workspace.sae(SAE)
    tiny_sae(folder=folder)
    config = json.loads((folder / "sae.json").read_text())
    write_json(folder / "sae.json", config | {
        "id": SAE, "training": {"text": str(text), "text_column": "text", "text_split": "train"}})
    return folder


def run(workspace: Workspace, **values: Any) -> tuple[int, RunFolder]:
    folder = start("evaluate", {"sae": SAE, "eval_tokens": 1000, "ce_tokens": 1000, **values}, workspace)
    return execute(folder, workspace), folder


def test_a_measure_is_stored_with_its_anchor_and_what_it_depends_on(home: Path, workspace: Workspace) -> None:
    code, folder = run(workspace, seeds=3, seed=1)
    assert code == EXIT_OK
    result = read_result(home, "core")
    assert result is not None
    value, none, *_ = result.values
    assert Norms.calls == [1, 2, 3, 1], "three seeds, then the anchor with the first"
    assert (value.key, value.n, value.definition) == ("norm", 48, "The mean norm.")
    assert value.value == pytest.approx(((value.low or 0) + (value.high or 0)) / 2)
    assert (value.high or 0) - (value.low or 0) == pytest.approx(2)
    assert (none.value, none.low) == (None, None)
    assert result.detail == {"nan": None}
    assert [anchor.name for anchor in result.anchors] == [RANDOM]
    assert result.anchors[0].values[0].value == pytest.approx(2), "unit rows, plus the seed"
    assert (result.run, result.seeds, result.build) == (folder.id, (1, 2, 3), "")
    assert result.tokens > 100
    assert result.text.endswith("text.txt")
    assert result.peak_bytes > 1e6
    assert result.command.startswith(f"saescope evaluate --sae {SAE}")
    assert json.loads((home / "sae.json").read_text())["metrics"] == {"l0": 3.0, "dead": 12, "dead_fraction": 0.25}


def test_the_metrics_come_from_the_core_measure() -> None:
    core = StoredResult("core", (StoredValue("fvu", 0.25, n=500), StoredValue("delta_ce", None),
                                 StoredValue("alive_share", 0.9), StoredValue("cossim", 0.8)))
    assert evaluate.metrics_of(core, 1000) == {
        "fvu": 0.25, "dead": 100, "dead_fraction": pytest.approx(0.1), "tokens": 500}


def test_an_impossible_measure_is_refused_in_one_line_and_the_others_are_made(
    home: Path, workspace: Workspace
) -> None:
    code, folder = run(workspace, measures="core,probing")
    status = folder.status()
    assert code == EXIT_OK
    assert status is not None
    assert status.phases == ["text", "core", "probing"]
    assert status.result["measured"] == ["core"]
    assert status.result["refused"] == {"probing": "labels: there is only one class"}
    assert [(one.measure, bool(one.refused)) for one in read_results(home)] == [("core", False), ("probing", True)]


def test_a_run_without_any_possible_measure_fails_with_the_reason(home: Path, workspace: Workspace) -> None:
    code, folder = run(workspace, measures="probing")
    status = folder.status()
    assert code == EXIT_USER
    assert status is not None
    assert status.error == "labels: there is only one class"


def test_a_refusal_never_replaces_numbers(home: Path, workspace: Workspace, tmp_path: Path) -> None:
    run(workspace)
    before = read_result(home, "core")
    labels = tmp_path / "labels.csv"
    labels.write_text("text,label\n")
    assert run(workspace, labels=str(labels))[0] == EXIT_USER
    assert read_result(home, "core") == before


def test_a_resumed_run_skips_the_measures_that_it_has_made(
    home: Path, workspace: Workspace, pretended: dict[str, Any]
) -> None:
    class Cancelling(Norms):
        def run(self, subject: Subject, progress: Progress) -> Result:
            folder.request_cancel()
            progress(1, 1)
            raise AssertionError("the progress should have raised")

    pretended["probing"] = Cancelling
    folder = start("evaluate", {"sae": SAE, "eval_tokens": 1000, "measures": "core,probing"}, workspace)
    assert execute(folder, workspace) == EXIT_CANCELLED
    pretended["probing"] = Norms
    Norms.calls = []
    assert execute(folder, workspace) == EXIT_OK
    assert Norms.calls == [0, 0], "only probing was left, and its anchor"


def part_of(folder: RunFolder, workspace: Workspace, number: int) -> RunFolder:
    part = RunFolder(workspace.run(f"{folder.id}-part-{number}"))
    part.create("evaluate-part", {"run": folder.id, "part": number})
    return part


def test_pieces_that_parts_have_made_give_the_same_values(
    home: Path, workspace: Workspace, pretended: dict[str, Any]
) -> None:
    pretended |= {"probing": Norms, "n2g": Norms}
    values = {"measures": "core,probing,n2g", "seeds": 3, "seed": 1}
    run(workspace, **values)
    alone = read_results(home)
    calls, Norms.calls = Norms.calls, []
    folder = start("evaluate", {"sae": SAE, "eval_tokens": 1000, "ce_tokens": 1000, **values, "shards": 4}, workspace)
    assert len(list_pieces(parse_spec("evaluate", folder.spec()[1]))) == 11  # type: ignore[arg-type]

    class Killed(Norms):
        def run(self, subject: Subject, progress: Progress) -> Result:
            if subject.seed == 2:
                raise Interrupted
            return super().run(subject, progress)

    part = part_of(folder, workspace, 4)
    pretended["n2g"] = Killed
    assert execute(part, workspace) == EXIT_INTERRUPTED
    pretended["n2g"] = Norms
    for number in (4, 2, 1, 3):
        assert execute(part_of(folder, workspace, number), workspace) == EXIT_OK
    assert sorted(Norms.calls) == sorted(calls), "each piece is made once"
    assert read_results(home) == alone, "the run itself writes the results"
    assert execute(folder, workspace) == EXIT_OK
    assert sorted(Norms.calls) == sorted(calls)
    merged = read_results(home)
    assert {one.run for one in merged} == {folder.id}
    timed = {"run": "", "created": 0.0, "seconds": 0.0, "peak_bytes": 0}
    assert [replace(one, **timed) for one in merged] == [replace(one, **timed) for one in alone]  # type: ignore[arg-type]
    assert not folder.checkpoints.exists()


def test_more_parts_than_pieces_are_refused(home: Path, workspace: Workspace) -> None:
    with pytest.raises(UserError, match=r"shards: this evaluation has 2 pieces") as error:
        start("evaluate", {"sae": SAE, "shards": 3}, workspace)
    assert error.value.field == "shards"


def test_bad_settings_name_their_field(home: Path, workspace: Workspace) -> None:
    code, folder = run(workspace, labels="/nowhere/labels.csv")
    status = folder.status()
    assert code == EXIT_USER
    assert status is not None
    assert status.error is not None
    assert status.error.startswith("labels: there is no file")
    with pytest.raises(UserError) as caught:
        parse_spec("evaluate", {"sae": SAE, "measures": "core,nothing"})
    assert caught.value.field == "measures"
    assert parse_spec("evaluate", {"sae": SAE, "measures": "all"}).measures == tuple(registry.ENTRIES)  # type: ignore[union-attr]
    assert evaluate.phases({"measures": 3}) == {"text": 4.0}


@pytest.mark.parametrize("transcoder", [False, True])
def test_a_random_dictionary_has_the_shape_and_the_l0_of_the_sae(tiny_sae: TinySae, transcoder: bool) -> None:
    sae = tiny_sae()
    width = sae.d_model
    x_ND = torch.randn(500, width * (1 + transcoder), generator=torch.Generator().manual_seed(0))
    if transcoder:
        sae.config["site"] = {"layer": 2, "hook": "a", "out_hook": "b"}
    dictionary = random_dictionary(sae, x_ND, seed=1)
    assert dictionary.W_dec_LD.shape == sae.W_dec_LD.shape
    assert torch.allclose(dictionary.W_dec_LD.norm(dim=1), torch.ones(48), atol=1e-5)
    assert torch.equal(dictionary.W_enc_LD, dictionary.W_dec_LD) is not transcoder
    l0 = len(sae.codes(x_ND[:, :width]).latent_N) / 500
    assert len(dictionary.codes(x_ND[:, :width]).latent_N) / 500 == pytest.approx(l0, abs=1)
    assert not torch.allclose(dictionary.W_dec_LD, sae.W_dec_LD)
    target_ND = x_ND[:, width:] if transcoder else x_ND
    scale_L = dictionary.activation_scale_L
    assert scale_L is not None

    def error(factor: float) -> float:
        dictionary.activation_scale_L = scale_L * factor
        return float((dictionary.reconstruct(x_ND[:, :width]) - target_ND).double().square().sum())

    assert error(1.0) < min(error(0.9), error(1.1)), "no other factor is better"
    assert error(1.0) < float((target_ND - target_ND.mean(dim=0)).square().sum()), "better than the mean"
    assert dictionary.config["id"] != sae.config["id"]
