"""Explaining and scoring of one latent after the other, with several requests at the same time.  No torch.

The build, the language model and the SAE are used by the caller's thread alone; the other threads only ask the model
that explains.  All records of a latent are complete before they are handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from sae.errors import UserError
from sae.explain import judging
from sae.explain.answers import Unparsable
from sae.explain.budget import BudgetSpent
from sae.explain.chat import RequestRefused
from sae.explain.embedding import Embedder, embedding
from sae.explain.evidence import Evidence, evidence_of
from sae.explain.examples import Examples, ExampleSource
from sae.explain.explainers import by_model, by_rule
from sae.explain.judging import Judge
from sae.explain.records import Explanation, Score
from sae.explain.simulation import simulation
from sae.store.build import Build
from sae.store.latent_search import rules_with_firings
from sae.store.records import Latent, Rule

_MAX_REFUSED = 5  # latents refused one after the other at the start: then something is wrong with the request itself
OutputScorer = Callable[[Explanation, float], Score | None]


@dataclass(frozen=True)
class Tools:
    """What explains and scores; None or empty where it is not asked for."""

    run: str
    explainer: str
    scorers: tuple[str, ...]
    judge: Judge | None = None
    source: ExampleSource | None = None
    embedder: Embedder | None = None
    output: OutputScorer | None = None
    concurrency: int = 1
    existing: Mapping[int, Sequence[Explanation]] = field(default_factory=dict)  # by latent, to be scored


@dataclass
class Outcome:
    """The records of a latent.  Without a new explanation, `reason` says why there is none.

    `scored` are the explanations that are scored: the new one, or those that exist.
    """

    latent: int
    explanation: Explanation | None = None
    scores: list[Score] = field(default_factory=list)
    scored: list[Explanation] = field(default_factory=list)
    reason: str = ""


def outcomes(build: Build, latents: Sequence[int], tools: Tools) -> Iterator[Outcome]:
    """Yield the outcome of each latent as soon as it is complete.

    Raises BudgetSpent when the next request could exceed the budget; what was complete before has been yielded.
    """
    n_refused, any_accepted = 0, False
    for outcome, max_act in _outcomes(build, latents, tools):
        refused = outcome.reason.startswith(_REFUSED)
        n_refused, any_accepted = n_refused + refused, any_accepted or not refused
        if n_refused == _MAX_REFUSED and not any_accepted:
            raise UserError(f"model: {outcome.reason}", "model")
        if tools.output is not None:
            outcome.scores += [score for one in outcome.scored if (score := tools.output(one, max_act)) is not None]
        yield outcome


def _outcomes(build: Build, latents: Sequence[int], tools: Tools) -> Iterator[tuple[Outcome, float]]:
    if tools.explainer == "rule" and not tools.scorers:
        yield from ((outcome, 0.0) for outcome in _rules(build, latents, tools.run))
        return
    if tools.judge is None and tools.source is None:  # there is nothing to wait for
        for latent in latents:
            found = build.latent(latent)
            if found is not None:
                yield _work(tools, found, None, None, build), found.max_act or 0.0
        return
    pool = ThreadPoolExecutor(tools.concurrency, thread_name_prefix="explain")
    running: dict[Future[Outcome], float] = {}
    try:
        for latent in latents:
            found = build.latent(latent)
            if found is None:
                continue
            evidence = evidence_of(build, found)
            examples = tools.source.of(found, evidence.excerpts) if tools.source is not None else None
            running[pool.submit(_work, tools, found, evidence, examples, build)] = found.max_act or 0.0
            while len(running) >= 2 * tools.concurrency:
                yield from _finished(running)
        while running:
            yield from _finished(running)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # an answer under way is paid for, so it is waited for


def _rules(build: Build, latents: Sequence[int], run: str) -> Iterator[Outcome]:
    """Yield the rules of latents, all of them read at once."""
    known = rules_with_firings(build)
    for latent in latents:
        if latent in known:
            yield _by_rule(Outcome(latent), *known[latent], build, run)


def _by_rule(outcome: Outcome, rule: Rule | None, n_tokens: int, build: Build, run: str) -> Outcome:
    made = by_rule(outcome.latent, rule, n_tokens, build.vocabulary, run)
    if made is None:
        outcome.reason = "no short rule says when it fires" if n_tokens else "it never fired"
    else:
        outcome.explanation = made[0]
        outcome.scores.append(made[1])
    return outcome


def _finished(running: dict[Future[Outcome], float]) -> Iterator[tuple[Outcome, float]]:
    done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
    for one in sorted(done, key=lambda future: future.exception() is not None):  # whole ones first
        max_act = running.pop(one)
        yield one.result(), max_act


_REFUSED = "the endpoint refuses the request"


def _work(
    tools: Tools, found: Latent, evidence: Evidence | None, examples: Examples | None, build: Build,
) -> Outcome:
    """Explain and score one latent."""
    try:
        return _explain_and_score(tools, found, evidence, examples, build)
    except Unparsable as fault:
        return Outcome(found.latent, reason=f"the answer cannot be read: {fault}")
    except RequestRefused as refusal:
        return Outcome(found.latent, reason=f"{_REFUSED}: {refusal}")


def _explain_and_score(
    tools: Tools, found: Latent, evidence: Evidence | None, examples: Examples | None, build: Build,
) -> Outcome:
    outcome = Outcome(found.latent)
    if found.dead:
        outcome.reason = "it never fired"
        return outcome
    if tools.explainer == "existing":
        outcome.scored += tools.existing.get(found.latent, ())
        outcome.reason = "its explanations are scored" if outcome.scored else "it has no explanation to score"
    elif tools.explainer == "rule":
        _by_rule(outcome, found.rule, found.n_tokens or 0, build, tools.run)
    else:
        assert tools.judge is not None
        assert evidence is not None
        if evidence.top or evidence.bands:
            outcome.explanation = by_model(tools.judge, evidence, tools.run)
        else:
            outcome.reason = "it fires in no document of the half for explaining"
    outcome.scored += [outcome.explanation] if outcome.explanation is not None else []
    if examples is not None:
        if "intruder" in tools.scorers and tools.judge is not None:  # it judges the latent itself
            outcome.scores += _known(judging.intruder(tools.judge, found.latent, examples))
        outcome.scores += [score for explanation in outcome.scored for name in tools.scorers
                           for score in _known(_score(tools, name, explanation, examples))]
    return outcome


def _known(score: Score | None) -> list[Score]:
    return [] if score is None else [score]


def _score(tools: Tools, name: str, explanation: Explanation, examples: Examples) -> Score | None:
    if name == "embedding" and tools.embedder is not None:
        return embedding(tools.embedder, explanation, examples)
    if tools.judge is not None and name in _BY_JUDGE:
        return _BY_JUDGE[name](tools.judge, explanation, examples)
    return None  # the output side is scored by the caller's thread


_BY_JUDGE: dict[str, Callable[[Judge, Explanation, Examples], Score | None]] = {
    "detection": judging.detection, "fuzzing": judging.fuzzing, "simulation": simulation}

__all__ = ["BudgetSpent", "Outcome", "OutputScorer", "Tools", "outcomes"]
