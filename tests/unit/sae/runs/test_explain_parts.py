"""Tests of explanations in parts: the records and the result are those of one run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from sae.errors import Interrupted
from sae.explain import results
from sae.explain.records import to_json
from sae.runs import explain_parts
from sae.runs.create import start
from sae.runs.execute import EXIT_INTERRUPTED, EXIT_OK, execute
from sae.runs.explain_parts import Tally, with_share
from sae.runs.folder import RunFolder
from sae.runs.progress import Reporter
from sae.specs.explain import ExplainSpec
from sae.workspace.paths import Workspace
from tests.chat_server import ChatServer, chat_server
from tests.unit.sae.explain.brain import brain
from tests.unit.sae.explain.conftest import SAE, build, indexed, synthetic  # noqa: F401  (fixtures)


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with chat_server(brain) as running:
        yield running


def begun(workspace: Workspace, server: ChatServer, **values: Any) -> RunFolder:
    return start("explain", {"sae": SAE, "latents": "densest:4", "explainer": "endpoint", "address": server.address,
                             "model": "test-model", "concurrency": 1,
                             "scorers": "detection", **values}, workspace)


def part_of(run: RunFolder, workspace: Workspace, number: int) -> RunFolder:
    folder = RunFolder(workspace.run(f"{run.id}-part-{number}"))
    folder.create("explain-part", {"run": run.id, "part": number})
    return folder


def lines(workspace: Workspace, sae_id: str = SAE) -> list[Any]:
    """Return the records as they are in the file, without the run, its ids and the time."""
    found = []
    for record in results.read(workspace.sae(sae_id))[0]:
        (kind, values), = to_json(record).items()
        own = ("created", "run", "id", "explanation")
        found.append((kind, {key: value for key, value in values.items() if key not in own}))
    return found


def result_of(folder: RunFolder) -> dict[str, Any]:
    status = folder.status()
    assert status is not None
    assert status.state == "succeeded", status.error
    return status.result


def copy_of(workspace: Workspace, name: str) -> Workspace:
    other = Workspace(workspace.root.parent / name)
    for folder in ("builds", "saes"):
        shutil.copytree(workspace.root / folder, other.root / folder)
    return other


def test_the_records_and_the_result_are_those_of_one_run(
    indexed: Workspace, server: ChatServer, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    here = copy_of(indexed, "here")
    alone = begun(here, server)
    assert execute(alone, here) == EXIT_OK
    run = begun(indexed, server, shards=2)
    for number in (2, 1):
        part = part_of(run, indexed, number)
        if number == 2:  # it is stopped after its first latent, and goes on
            with monkeypatch.context() as patch:
                patch.setattr(Reporter, "check", _stop_after(1))
                assert execute(part, indexed) == EXIT_INTERRUPTED
            assert results.read(explain_parts.place_of(run, 2))[0], "what it has explained is kept"
        assert lines(indexed) == [], "the run gathers them in its order"
        assert execute(part, indexed) == EXIT_OK
    assert execute(run, indexed) == EXIT_OK
    assert lines(indexed) == lines(here)
    assert len(lines(here)) > 4, "scores, too"
    assert result_of(run) == result_of(alone)
    assert not run.checkpoints.exists()


def _stop_after(done: int) -> Any:
    def check(reporter: Reporter) -> None:
        if reporter.status.phase == "explanations" and reporter.status.done >= done:
            raise Interrupted

    return check


def test_the_run_explains_what_no_part_has_explained_and_a_second_merge_appends_nothing(
    indexed: Workspace, server: ChatServer  # noqa: F811
) -> None:
    run = begun(indexed, server, shards=3, latents="densest:3")
    assert execute(part_of(run, indexed, 2), indexed) == EXIT_OK
    parts = explain_parts.finished(run, 3)
    assert [part is not None for part in parts] == [False, True, False]
    once = explain_parts.merge(run, indexed.sae(SAE), parts, Tally())
    before = lines(indexed)
    assert explain_parts.merge(run, indexed.sae(SAE), parts, Tally()) == once
    assert lines(indexed) == before
    assert len(before) > 0
    assert execute(run, indexed) == EXIT_OK
    assert sum(kind == "explanation" for kind, _ in lines(indexed)) == result_of(run)["explained"] == 3


def test_each_part_may_spend_its_share() -> None:
    spec = ExplainSpec(sae="a/b", budget_tokens=10, budget_money=1.0, price_in=1.0, shards=4)
    assert (with_share(spec).budget_tokens, with_share(spec).budget_money) == (2, 0.25)
    few = with_share(spec.model_copy(update={"budget_tokens": 3}))
    assert few.budget_tokens == 1, "0 would be no limit"
    assert with_share(ExplainSpec(sae="a/b", shards=4)).budget_tokens == 0
