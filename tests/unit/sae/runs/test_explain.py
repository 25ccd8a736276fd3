"""The run that explains: the whole path over HTTP, killed and resumed, stopped by its budget, and without its key."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sae.errors import UserError
from sae.explain import results
from sae.explain.records import Explanation, Score
from sae.explain.request_cache import FILE
from sae.runs.create import start
from sae.runs.execute import EXIT_OK, EXIT_USER, execute
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace
from tests.chat_server import ChatServer, chat_server
from tests.runs import begin, end_of, wait_for
from tests.unit.sae.explain.brain import brain
from tests.unit.sae.explain.conftest import SAE, build, indexed, synthetic  # noqa: F401  (fixtures)
from tests.unit.sae.explain.parrot import write_parrot

KEY = "sk-test-4711-never-to-be-seen"
FAULTS = ("", "429", "", "500", "", "fenced", "no_usage", "", "broken", "truncated", "", "slow", "garbage", "empty", "")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae.explain.endpoint._MAX_PAUSE_S", 0.02)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server(brain) as running:
        yield running


def run(workspace: Workspace, **spec: Any) -> RunFolder:
    return start("explain", {"sae": SAE, "latents": "0,1,2,3,20,22", **spec}, workspace)


def by_endpoint(workspace: Workspace, server: ChatServer, **spec: Any) -> RunFolder:
    return run(workspace, **{"explainer": "endpoint", "address": server.address, "model": "test-model", **spec})


def result(folder: RunFolder) -> dict[str, Any]:
    status = folder.status()
    assert status is not None
    assert status.state == "succeeded", status.error
    return status.result


def records(workspace: Workspace) -> tuple[list[Explanation], list[Score]]:
    found, _ = results.read(workspace.sae(SAE))
    return [r for r in found if isinstance(r, Explanation)], [r for r in found if isinstance(r, Score)]


def test_rules_become_explanations_with_their_held_out_scores(indexed: Workspace) -> None:  # noqa: F811
    import duckdb

    from sae.store.build import Build

    with duckdb.connect(str(indexed.build(SAE, indexed.build_ids(SAE)[-1]))) as con:  # the synthetic build has no rules
        con.execute("UPDATE latent SET rule_kind = 'class', rule_tokens = [], rule_class = 'number', "
                    "rule_precision = 0.5, rule_recall = 0.75, rule_f1 = latent / 10 WHERE latent IN (1, 2, 5)")
    folder = run(indexed, latents="all")
    assert execute(folder, indexed) == EXIT_OK
    explanations, scores = records(indexed)
    opened = Build.open(indexed.build(SAE, indexed.build_ids(SAE)[-1]))
    expected = {latent: found.rule for latent in range(60) if (found := opened.latent(latent)) and found.rule}
    opened.close()
    assert {one.latent for one in explanations} == set(expected) == {1, 2, 5}
    assert {score.latent: score.value for score in scores} == {n: pytest.approx(r.f1) for n, r in expected.items()}
    assert all(one.kind == "rule" for one in explanations)
    assert result(folder)["explained"] == len(explanations)
    again = run(indexed, latents="all")
    execute(again, indexed)
    assert result(again)["explained"] == 0  # nothing is made twice
    assert records(indexed)[0] == explanations


def test_the_whole_path_survives_every_fault(indexed: Workspace) -> None:  # noqa: F811
    with chat_server(brain, lambda number: FAULTS[number % len(FAULTS)], logprobs=False) as server:
        folder = by_endpoint(indexed, server, timeout_s=1, retries=8, concurrency=3,
                             scorers="detection,fuzzing,simulation,intruder")
        assert execute(folder, indexed) == EXIT_OK
        assert {one.fault for one in server.served} == set(FAULTS)
    explanations, scores = records(indexed)
    assert {one.latent for one in explanations} <= {0, 1, 2, 3, 20, 22}
    assert len(explanations) >= 4
    assert {one.prompt_version for one in explanations} == {"explain-1"}
    assert {one.scorer for one in scores} == {"detection", "fuzzing", "intruder"}  # simulation needs logprobs
    assert sum(score.details["unparsable"] for score in scores) > 0
    assert result(folder)["explained"] == len(explanations)
    assert result(folder)["tokens_in"] > 0


def test_a_good_explanation_of_a_single_token_scores_well(indexed: Workspace, server: ChatServer) -> None:  # noqa: F811
    execute(by_endpoint(indexed, server, latents="0,1,2"), indexed)  # each fires on one token
    explanations, scores = records(indexed)
    detection = {score.latent: score for score in scores if score.scorer == "detection"}
    assert detection
    for score in detection.values():
        assert score.details["recall"] == 1.0
        assert score.details["auc_from"] == "logprobs"
        assert score.low is not None
        assert score.low <= score.value
    assert {score.explanation for score in detection.values()} <= {one.id for one in explanations}


def test_killed_at_any_moment_it_resumes_without_paying_twice(indexed: Workspace) -> None:  # noqa: F811
    concurrency = 2
    with chat_server(brain, delay_s=0.03) as server:
        folder = by_endpoint(indexed, server, latents="densest:14", concurrency=concurrency)
        stored: set[str] = set()
        for n_before in (1, 15):
            process = begin(folder.path)
            wait_for(process, lambda n=n_before: len(server.served) >= n)
            process.kill()
            assert end_of(process) == -signal.SIGKILL
            lines = (folder.path / FILE).read_bytes().split(b"\n") if (folder.path / FILE).exists() else []
            stored |= {json.dumps(json.loads(line)["request"]["messages"], sort_keys=True)
                       for line in lines if line.endswith(b"}}")}
            before = len(server.served)
            assert not stored & {one.key for one in server.served[before:]}
        server.delay_s = 0.0  # nothing is killed any more
        served = len(server.served)
        assert end_of(begin(folder.path)) == EXIT_OK
        assert not stored & {one.key for one in server.served[served:]}  # what was stored is not asked again
        times = Counter(one.key for one in server.served)
        repeated = [key for key, n in times.items() if n > 1]
        assert len(repeated) <= 4 * concurrency  # only what was under way when it was killed
        in_parts = records(indexed)

        other = Workspace(indexed.root.parent / "other")
        shutil.copytree(indexed.root / "builds", other.root / "builds")
        shutil.copytree(indexed.root / "saes", other.root / "saes")
        results.results_path(other.sae(SAE)).unlink()
        assert execute(by_endpoint(other, server, latents="densest:14"), other) == EXIT_OK
    at_once = records(other)
    assert {(e.latent, e.text) for e in in_parts[0]} == {(e.latent, e.text) for e in at_once[0]}
    assert len(in_parts[0]) == len(at_once[0])
    values = [{(s.latent, s.scorer, s.value, s.n) for s in part[1]} for part in (in_parts, at_once)]
    assert values[0] == values[1]


@pytest.mark.heavy
def test_a_signal_interrupts_it_and_it_resumes(indexed: Workspace) -> None:  # noqa: F811
    with chat_server(brain, delay_s=0.05) as server:
        folder = by_endpoint(indexed, server, latents="all")
        process = begin(folder.path)
        wait_for(process, lambda: len(server.served) >= 5)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        assert end_of(process) == 4
        status = folder.status()
        assert status is not None
        assert status.state == "interrupted"
        folder.request_cancel()
        assert execute(folder, indexed) == 3
        assert execute(folder, indexed) == EXIT_OK
        assert max(Counter(one.key for one in server.served).values()) == 1  # answers under way were waited for


def test_a_budget_stops_it(indexed: Workspace, server: ChatServer) -> None:  # noqa: F811
    folder = by_endpoint(indexed, server, latents="all", budget_tokens=20_000, concurrency=1)
    execute(folder, indexed)
    found = result(folder)
    assert found["stopped"] == "the budget is spent"
    assert 0 < found["tokens_in"] + found["tokens_out"] <= 20_000
    assert 0 < found["explained"] < 50
    assert found["explained"] == len(records(indexed)[0])


def test_several_requests_at_once_but_not_more(indexed: Workspace) -> None:  # noqa: F811
    with chat_server(brain, delay_s=0.05) as server:
        execute(by_endpoint(indexed, server, concurrency=3), indexed)
        assert server.most_at_once in (2, 3)


@pytest.mark.parametrize("fault", ["", "401", "400", "garbage"])
def test_the_key_appears_nowhere(
    indexed: Workspace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fault: str  # noqa: F811
) -> None:
    monkeypatch.setenv("SAESCOPE_LLM_KEY", KEY)
    with chat_server(brain, lambda number: fault) as server:
        folder = by_endpoint(indexed, server, retries=0)
        execute(folder, indexed)
        assert all(one.headers["authorization"] == f"Bearer {KEY}" for one in server.served)
        assert server.served
    out, err = capfd.readouterr()
    assert KEY not in out + err
    files = [path for path in indexed.root.rglob("*") if path.is_file()]
    assert any(path.name == "status.json" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    status = folder.status()
    assert status is not None
    assert status.state == ("failed" if fault in ("401", "400") else "succeeded")


@pytest.mark.parametrize(("spec", "field"), [
    ({"latents": "many"}, "latents"), ({"latents": "60"}, None), ({"latents": "0,60"}, "latents"),
    ({"explainer": "endpoint"}, "address"), ({"explainer": "endpoint", "address": "http://h/v1"}, "model"),
    ({"explainer": "local"}, "model"), ({"explainer": "local", "model": "demo"}, "model"),
    ({"scorers": "embedding"}, "embedding_model"), ({"scorers": "output"}, "scorers"),
    ({"scorers": "detection"}, "address"), ({"prompts": "none"}, "prompts"), ({"budget_money": "1"}, "budget_money"),
    ({"sae": "demo/none"}, "sae")])
def test_settings_that_cannot_work_are_refused(
    indexed: Workspace, spec: dict[str, Any], field: str | None  # noqa: F811
) -> None:
    if field is None:
        run(indexed, **spec)
    elif spec == {"latents": "0,60"}:  # only the build knows its latents
        folder = run(indexed, **spec)
        assert execute(folder, indexed) == EXIT_USER
        status = folder.status()
        assert status is not None
        assert str(status.error).startswith("latents: there is no latent 60")
    else:
        with pytest.raises(UserError) as error:
            run(indexed, **spec)
        assert error.value.field == field


def test_the_estimate_is_near_the_truth(
    indexed: Workspace, server: ChatServer, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:
    folder = by_endpoint(indexed, server, latents="0,1,2,3,20,22")
    execute(folder, indexed)
    said = next(line for line in capsys.readouterr().out.splitlines() if "requests" in line)
    requests, read = (int(part.replace(",", "")) for part in (said.split()[3], said.split()[5]))
    assert len(server.served) == pytest.approx(requests, rel=0.4)
    assert result(folder)["tokens_in"] == pytest.approx(read, rel=0.5)


def test_a_local_model_that_talks_nonsense_explains_nothing_and_the_run_ends(
    indexed: Workspace, tmp_path: Path  # noqa: F811
) -> None:
    """The embedded model with a chat template is a small local model in the layout of Hugging Face."""
    from sae.lm.model_info import DEMO_PATH

    folder = tmp_path / "instruct"
    shutil.copytree(DEMO_PATH, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = "{% for m in messages %}{{ m['content'][:60] }}\n{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    run_folder = run(indexed, latents="0,1", explainer="local", model=str(folder), device="cpu", answer_tokens=16)
    assert execute(run_folder, indexed) == EXIT_OK
    found = result(run_folder)
    assert found["explained"] + found["unexplained"] == 2
    assert found["tokens_out"] > 0
    lines = [json.loads(line) for line in (run_folder.path / FILE).read_text().splitlines()]
    assert all(line["request"]["model"] == str(folder) for line in lines)



def test_explanations_of_people_and_imports_are_scored(indexed: Workspace, server: ChatServer) -> None:  # noqa: F811
    home = indexed.sae(SAE)
    nothing = by_endpoint(indexed, server, explainer="existing")
    assert execute(nothing, indexed) == EXIT_USER
    assert "explainer: " in (nothing.path / "status.json").read_text()
    execute(by_endpoint(indexed, server, latents="#0", scorers="intruder"), indexed)  # explained, without a score
    [own], _ = records(indexed)
    good, bad = Explanation(1, "wrong", "person", "ada", id="bad"), Explanation(0, own.text, "person", "ada", id="good")
    results.write_people(home, [good, bad])
    asked = len(server.served)
    folder = by_endpoint(indexed, server, explainer="existing", latents="all")
    assert execute(folder, indexed) == EXIT_OK
    found = result(folder)
    assert (found["scored"], found["explained"], found["unexplained"]) == (3, 0, 0)
    explanations, scores = records(indexed)
    assert explanations == [own]  # nothing new
    by_id = {(score.explanation, score.scorer): score for score in scores}
    assert {number for number, _ in by_id if number} == {own.id, "good", "bad"}
    assert by_id["good", "detection"].value == by_id[own.id, "detection"].value > by_id["bad", "detection"].value
    assert by_id["bad", "detection"].details["seen"] is True
    assert by_id[own.id, "detection"].details["seen"] is False
    assert len(server.served) > asked
    asked = len(server.served)
    again = by_endpoint(indexed, server, explainer="existing", latents="random:50")
    assert execute(again, indexed) == EXIT_OK
    assert result(again)["scored"] == 0
    assert len(server.served) == asked  # nothing is scored twice


def test_a_chosen_latent_has_an_explanation(indexed: Workspace, server: ChatServer) -> None:  # noqa: F811
    results.append(indexed.sae(SAE), [Explanation(latent, f"t{latent}", "person") for latent in (0, 1, 2, 20)])
    for choice, n in (("3", 3), ("densest:2", 2), ("all", 4), ("0,5,#2", 2)):
        folder = by_endpoint(indexed, server, explainer="existing", latents=choice, again=True, scorers="detection")
        assert execute(folder, indexed) == EXIT_OK
        assert result(folder)["scored"] == n, choice


def test_the_command_explains_twenty_latents_by_a_local_model_without_a_network(
    indexed: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    from sae.cli.main import app

    def refuse(*_: Any) -> None:
        raise OSError("no network")

    write_parrot(tmp_path / "parrot", "the names of functions")
    monkeypatch.setenv("SAESCOPE_HOME", str(indexed.root))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    done = CliRunner().invoke(app, [
        "explain", "--sae", SAE, "--latents", "20", "--explainer", "local", "--model", str(tmp_path / "parrot"),
        "--device", "cpu", "--scorers", "detection", "--positives", "3", "--negatives", "2"])
    assert done.exit_code == 0, done.output
    explanations, scores = records(indexed)
    assert len(explanations) >= 15  # of the twenty some fire in no document of the explaining half
    assert {one.text for one in explanations} == {"the names of functions"}
    assert {(one.kind, one.model, one.prompt_version) for one in explanations} == {
        ("model", str(tmp_path / "parrot"), "explain-1")}
    assert scores
    for score in scores:  # its answer to the question of the scorer cannot be read, which counts as wrong
        assert score.details["unparsable"] == score.n
        assert score.value == 0.0


def test_latents_without_enough_texts_are_explained_and_counted_as_unscored(
    indexed: Workspace, server: ChatServer, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:
    monkeypatch.setattr("sae.explain.judging.MIN_POSITIVES", 999)
    folder = by_endpoint(indexed, server, scorers="detection", verify=False)
    assert execute(folder, indexed) == EXIT_OK
    done = result(folder)
    assert done["explained"] == done["unscored"] > 0
