"""Latents one after the other: what is explained and scored, and the reason where it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sae.errors import UserError
from sae.explain import pipeline
from sae.explain.budget import BudgetSpent
from sae.explain.chat import RequestRefused
from sae.explain.examples import ExampleSource
from sae.explain.judging import Judge
from sae.explain.pipeline import Outcome, Tools, outcomes
from sae.explain.records import Explanation, Score
from sae.explain.templates import Messages, load_templates
from sae.store.build import Build
from sae.store.records import Rule
from tests.unit.sae.explain.brain import brain
from tests.unit.sae.explain.conftest import Said


def latents_that(build: Build, dead: bool) -> list[int]:
    return [n for n in range(build.n_latents) if (found := build.latent(n)) is not None and found.dead == dead]


def by_said(said: Said, build: Build, *scorers: str, concurrency: int = 1) -> Tools:
    return Tools("run", "endpoint", scorers, Judge(said, load_templates()), ExampleSource(build),
                 concurrency=concurrency)


def by_latent(found: list[Outcome]) -> dict[int, Outcome]:
    return {one.latent: one for one in found}


def give_rules(build: Build, monkeypatch: pytest.MonkeyPatch, *ruled: int) -> None:
    """Give some latents a rule: the index has found none in this build."""
    right, rule = build.latent, Rule("class", [], "number", 0.5, 0.75, 0.6)
    monkeypatch.setattr(build, "latent", lambda n: (
        replace(found, rule=rule) if (found := right(n)) is not None and n in ruled else found))
    monkeypatch.setattr(pipeline, "rules_with_firings", lambda build: {
        n: (found.rule, found.n_tokens or 0) for n in range(build.n_latents) if (found := build.latent(n))})


def test_rules_are_explained_in_order_with_their_scores(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    give_rules(build, monkeypatch, 2, 4)
    chosen = [4, 3, 2, build.n_latents + 5]  # the build does not have the last one
    found = list(outcomes(build, chosen, Tools("run", "rule", ())))
    assert [(one.latent, one.reason) for one in found] == [
        (4, ""), (3, "no short rule says when it fires"), (2, "")]
    for one in (found[0], found[2]):
        assert one.explanation is not None
        assert (one.explanation.text, one.explanation.run) == ("fires on numbers", "run")
        assert [(score.scorer, score.value, score.explanation) for score in one.scores] == [
            ("rule", 0.6, one.explanation.id)]
    assert (found[1].explanation, found[1].scores) == (None, [])


def test_a_dead_latent_is_not_asked_about(build: Build, tmp_path: Path) -> None:
    said = Said(tmp_path, brain)
    dead = latents_that(build, dead=True)[:1]
    [one] = outcomes(build, dead, by_said(said, build))
    assert (one.reason, one.explanation, said.asked) == ("it never fired", None, [])


def test_a_model_explains_and_scores(build: Build, tmp_path: Path) -> None:
    found = by_latent(list(outcomes(
        build, [0, 1], by_said(Said(tmp_path, brain), build, "detection", "intruder", concurrency=2))))
    assert set(found) == {0, 1}
    for one in found.values():
        assert one.explanation is not None
        assert (one.explanation.kind, one.explanation.run) == ("model", "run")
        assert {score.scorer: score.explanation for score in one.scores} == {
            "detection": one.explanation.id, "intruder": ""}


def test_an_answer_that_cannot_be_read_is_the_reason(build: Build, tmp_path: Path) -> None:
    found = list(outcomes(build, [0, 1], by_said(Said(tmp_path, lambda messages: ""), build)))
    assert all(one.reason.startswith("the answer cannot be read: ") for one in found)


def test_a_run_whose_every_request_is_refused_ends(build: Build, tmp_path: Path) -> None:
    def refuse(messages: Messages) -> str:
        raise RequestRefused("no such model")

    alive = latents_that(build, dead=False)[:8]
    said = Said(tmp_path, refuse)
    with pytest.raises(UserError, match="the endpoint refuses the request: no such model") as error:
        list(outcomes(build, alive, by_said(said, build)))
    assert error.value.field == "model"
    few = list(outcomes(build, alive[:4], by_said(said, build)))
    assert {one.reason for one in few} == {"the endpoint refuses the request: no such model"}


def test_refusals_after_an_answer_do_not_end_the_run(build: Build, tmp_path: Path) -> None:
    said = Said(tmp_path, brain)

    def once(messages: Messages) -> str:
        if len(said.asked) > 1:
            raise RequestRefused("too long")
        return brain(messages)

    said.brain = once
    found = list(outcomes(build, latents_that(build, dead=False)[:8], by_said(said, build)))
    assert [one.explanation is not None for one in found].count(True) == 1
    assert len(found) == 8


def test_what_was_complete_before_the_budget_ended_is_kept(build: Build, tmp_path: Path) -> None:
    said = Said(tmp_path, brain, max_tokens=4000)
    found: list[Outcome] = []
    with pytest.raises(BudgetSpent):
        found.extend(outcomes(build, latents_that(build, dead=False), by_said(said, build)))  # extend keeps what came
    assert said.budget.tokens <= 4000
    assert 0 < len(found) <= len(said.asked)


def test_the_output_side_is_scored_with_the_latents_largest_activation(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_rules(build, monkeypatch, 0)
    seen: list[float] = []

    def output(explanation: Explanation, max_act: float) -> Score:
        seen.append(max_act)
        return Score(explanation.latent, "output", 0.5, 1, explanation.id)

    [one] = outcomes(build, [0], Tools("run", "rule", ("output",), output=output))
    latent = build.latent(0)
    assert latent is not None
    assert seen == [latent.max_act]
    assert [score.scorer for score in one.scores] == ["rule", "output"]
