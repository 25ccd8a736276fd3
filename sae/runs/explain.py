"""The run that explains latents and scores the explanations.

It appends to the file of explanations in the SAE's folder.  A run that is started again continues with the latents that
are missing there, and finds the answers that it has paid for in its own folder.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae.errors import UserError
from sae.explain import results
from sae.explain.budget import Budget, BudgetSpent
from sae.explain.checks import check_settings
from sae.explain.choice import choose_latents
from sae.explain.embedding import find_embedder
from sae.explain.endpoint import EndpointClient
from sae.explain.endpoint_settings import find_endpoint
from sae.explain.estimate import estimate_requests
from sae.explain.examples import ExampleSource
from sae.explain.existing import unscored, with_text
from sae.explain.explainers import MODEL_METHOD, RULE_METHOD
from sae.explain.judging import Judge
from sae.explain.pipeline import Outcome, Tools, outcomes
from sae.explain.records import Explanation, Record
from sae.explain.request_cache import FILE as REQUESTS
from sae.explain.request_cache import RequestCache
from sae.explain.templates import Template, load_templates
from sae.runs import explain_parts
from sae.runs.explain_parts import Tally
from sae.runs.folder import RunFolder
from sae.runs.parts import divide, parent_of, parts_folder
from sae.runs.progress import Reporter
from sae.specs.explain import JUDGED, ExplainSpec
from sae.specs.registry import PartSpec
from sae.store.build import Build
from sae.workspace.files import write_json_once
from sae.workspace.paths import Workspace

if TYPE_CHECKING:
    from sae.autoencoder.artefact import Autoencoder
    from sae.explain.chat import ChatModel
    from sae.lm.bridge import LanguageModel

PHASES = {"preparation": 5.0, "explanations": 95.0}
_BATCH = 200  # latents whose rules are written together


def check_explain(spec: ExplainSpec, workspace: Workspace) -> None:
    """Raise UserError, whose `field` names the setting at fault, if the run could not work."""
    from sae.autoencoder.config import read_config

    check_settings(spec, weightless=read_config(workspace.sae(spec.sae)).get("weights") == "none")
    if not workspace.build_ids(spec.sae):
        raise UserError(f"sae: {spec.sae} has no index of contexts yet; make one with: saescope index --sae {spec.sae}",
                        "sae")


def run_explain(spec: ExplainSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    """Explain the latents that the spec names, except in parts that are done; return the run's result.

    Raises UserError.
    """
    check_explain(spec, workspace)
    reporter.begin("preparation", unit="steps")
    home = workspace.sae(spec.sae)
    made = explain_parts.finished(folder, spec.shards)
    build_id, latents = _plan(spec, folder, workspace)
    left = [latent for one, part in zip(divide([1.0] * len(latents), spec.shards), made, strict=True) if part is None
            for latent in latents[one.start : one.stop]]
    tally = Tally()
    if left or not any(made):
        with contextlib.closing(Build.open(workspace.build(spec.sae, build_id))) as build:
            tally = _explained(spec, left, build, folder.id, home, home, folder.path / REQUESTS, reporter)
    whole = explain_parts.merge(folder, home, made, tally)
    reporter.row(**{f"mean_{name}": value for name, value in whole.means.items()})
    return {"sae": spec.sae, **whole.result(spec.explainer == "existing")}


def run_explain_part(part: PartSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    """Explain one part of a run's latents, and leave the records for it.  Return the run's result.  Raises UserError.

    The part may spend its share of the budget.
    """
    parent, spec = parent_of(part, "explain", workspace)
    assert isinstance(spec, ExplainSpec)
    reporter.begin("preparation", unit="steps")
    if (tally := explain_parts.finished(parent, spec.shards)[part.part - 1]) is None:
        build_id, latents = _plan(spec, parent, workspace)
        mine = divide([1.0] * len(latents), spec.shards)[part.part - 1]
        place = explain_parts.place_of(parent, part.part)
        with contextlib.closing(Build.open(workspace.build(spec.sae, build_id))) as build:
            tally = _explained(explain_parts.with_share(spec), latents[mine.start : mine.stop], build, parent.id,
                               workspace.sae(spec.sae), place, place / REQUESTS, reporter)
        explain_parts.finish(parent, part.part, spec.shards, tally)
    return {"sae": spec.sae, **tally.result(spec.explainer == "existing")}


def _plan(spec: ExplainSpec, folder: RunFolder, workspace: Workspace) -> tuple[str, list[int]]:
    """Return the build and the latents of a run, which all of its processes use.  Raises UserError."""
    path, builds = parts_folder(folder) / "plan.json", workspace.build_ids(spec.sae)
    if spec.shards > 1 and path.exists():
        plan = json.loads(path.read_text(encoding="utf-8"))
        return plan["build"] if plan["build"] in builds else builds[-1], plan["latents"]  # it may have been deleted
    build_id = builds[-1]
    with contextlib.closing(Build.open(workspace.build(spec.sae, build_id))) as build:
        known = results.read_all(workspace.sae(spec.sae)) if spec.explainer == "existing" else []
        among = {one.latent for one in known if isinstance(one, Explanation)} if known else None
        if spec.explainer == "existing" and not among:
            raise UserError(f"explainer: {spec.sae} has no explanations to score", "explainer")
        latents = choose_latents(build, spec.latents, spec.seed, among)
    if spec.shards == 1:
        return build_id, latents
    plan = write_json_once(path, {"build": build_id, "latents": latents})
    return plan["build"], plan["latents"]


def _explained(
    spec: ExplainSpec, latents: list[int], build: Build, run: str, home: Path, target: Path, requests: Path,
    reporter: Reporter,
) -> Tally:
    """Explain latents of the SAE in `home`, write the records to the file in the folder `target`, and count them.

    What `target` holds of this run already counts as done.  `requests` is the file of the answers that are paid for.
    """
    templates = load_templates(spec.prompts)
    cache = RequestCache(requests)
    budget = Budget(spec.budget_tokens, spec.budget_money, spec.price_in, spec.price_out, cache.tokens_in,
                    cache.tokens_out)
    _say_estimate(build, latents, spec, templates)
    before = [] if target == home else results.read(target)[0]
    tally = Tally.of(before, spec)
    with _tools(spec, run, home, build, cache, budget, templates, reporter) as tools:
        if spec.explainer == "existing":
            judge = tools.judge.model.name if tools.judge else ""
            known = [*results.read_all(home), *before]
            tools = replace(tools, existing=unscored(known, spec.scored_by, judge, spec.again))
            left = [latent for latent in latents if latent in tools.existing]
        else:
            done = _done([*results.read(home)[0], *before], run, spec, tools)
            left = [latent for latent in latents if latent not in done]
        return _explain(build, left, tools, target, reporter, len(latents), budget, tally)


def _explain(
    build: Build, latents: list[int], tools: Tools, target: Path, reporter: Reporter, total: int, budget: Budget,
    tally: Tally,
) -> Tally:
    """Explain latents, write the records, and return what was done, `tally` included."""
    reporter.begin("explanations", total, "latents", done=total - len(latents))
    counts, values = tally.counts, tally.values
    waiting: list[Record] = []
    done = total - len(latents)
    at_once = _BATCH if tools.judge is None and tools.source is None else 1
    try:
        for number, outcome in enumerate(outcomes(build, latents, tools), 1):
            waiting += _records(outcome)
            counts["explained" if outcome.explanation else "unexplained"] += tools.explainer != "existing"
            counts["unscored"] += bool(outcome.explanation and tools.scorers and not any(
                score.explanation for score in outcome.scores))
            counts["scored"] += len(outcome.scored) if tools.explainer == "existing" else 0
            for score in outcome.scores:
                values.setdefault(score.scorer, []).append(score.value)
            if len(waiting) >= at_once:
                results.append(target, waiting)
                waiting = []
            spent = f"{budget.tokens:,} tokens" if budget.tokens else ""
            reporter.update(done + number, message=spent + (f", {budget.spent:.4f}" if budget.spent else ""))
    except BudgetSpent:
        tally.stopped = "the budget is spent"
        print(tally.stopped)
    finally:
        results.append(target, waiting)
    if counts["unscored"]:
        print(f"{counts['unscored']} explained latents have no score: too few texts in which they fire, or are silent")
    tally.tokens_in, tally.tokens_out, tally.money = budget.tokens_in, budget.tokens_out, budget.spent
    return tally


def _records(outcome: Outcome) -> list[Record]:
    """Return the records in the order in which they are written.

    The explanation is last, so that one that is in the file has all of its scores there.
    """
    new = [outcome.explanation] if outcome.explanation else []
    return [*outcome.scores, *new] if new else [with_text(score, outcome.scored) for score in outcome.scores]


def _done(records: Sequence[Record], run: str, spec: ExplainSpec, tools: Tools) -> set[int]:
    """Return the latents that need no work: those of this run, and without `again` those of the same explainer."""
    explained = [record for record in records if isinstance(record, Explanation)]
    done = {one.latent for one in explained if one.run == run}
    if spec.again:
        return done
    if tools.explainer == "rule":
        return done | {one.latent for one in explained if one.method == RULE_METHOD and not tools.scorers}
    assert tools.judge is not None
    made_by = (MODEL_METHOD, tools.judge.model.name, tools.judge.templates["explain"].version)
    return done | {one.latent for one in explained if (one.method, one.model, one.prompt_version) == made_by}


@contextlib.contextmanager
def _tools(
    spec: ExplainSpec, run: str, home: Any, build: Build, cache: RequestCache, budget: Budget,
    templates: dict[str, Template], reporter: Reporter,
) -> Iterator[Tools]:
    """Open what the run needs: the model that explains, the language model with the SAE, and the embeddings."""
    from sae.autoencoder.config import read_config

    config = read_config(home)
    scorers = set(spec.scored_by)
    with contextlib.ExitStack() as stack:
        judge = None
        if spec.asks_model:
            model = _model(spec, cache, budget, reporter, stack)
            judge = Judge(model, templates, spec.answer_tokens, seed=spec.seed)
        needs_examples = bool(scorers & (JUDGED | {"embedding"}))
        has_weights = config.get("weights") != "none"
        reader = output = None
        if has_weights and ((needs_examples and spec.verify) or "output" in scorers):
            lm, sae = _language_model(spec, home, config, reporter)
            from sae.explain.sae_reader import SaeReader

            reader = SaeReader(lm, sae) if spec.verify else None
            output = _output_scorer(lm, sae) if "output" in scorers else None
        source = ExampleSource(build, reader, n_positives=spec.positives, n_negatives=spec.negatives,
                               seed=spec.seed) if needs_examples else None
        embedder = find_embedder(spec.embedding_model) if "embedding" in scorers else None
        yield Tools(run, spec.explainer, spec.scored_by, judge, source, embedder, output, spec.concurrency)


def _model(
    spec: ExplainSpec, cache: RequestCache, budget: Budget, reporter: Reporter, stack: contextlib.ExitStack,
) -> ChatModel:
    if spec.is_local:
        from sae.explain.local_model import LocalModel

        reporter.update(0, message=f"loading {spec.model}")
        return LocalModel.load(spec.model, spec.device, cache, budget, reporter.check)
    client = EndpointClient(find_endpoint(spec.address, spec.model), cache, budget, timeout_s=spec.timeout_s,
                            retries=spec.retries, check=reporter.check)
    stack.callback(client.close)
    return client


def _language_model(
    spec: ExplainSpec, home: Any, config: dict[str, Any], reporter: Reporter,
) -> tuple[LanguageModel, Autoencoder]:
    from sae.autoencoder.artefact import Autoencoder
    from sae.lm.conformance.opening import open_model

    reporter.update(0, message=f"loading {config['model']['name']}")
    lm = open_model(config["model"]["name"], spec.device)
    return lm, Autoencoder.load(home, lm.device)


def _output_scorer(lm: LanguageModel, sae: Autoencoder) -> Any:
    from sae.explain.output_side import output_side
    from sae.lm.slow_row_model import open_row_model

    rows = open_row_model(lm.share_weights())
    return lambda explanation, max_act: output_side(rows, sae, explanation, max_act)


def _say_estimate(build: Build, latents: list[int], spec: ExplainSpec, templates: dict[str, Template]) -> None:
    if not spec.asks_model:
        print(f"{len(latents):,} latents")
        return
    cost = estimate_requests(build, latents, spec, templates)
    money = f", about {cost.money:.2f} in the unit of the prices" if cost.money is not None else ""
    print(f"{cost.latents:,} latents: about {cost.requests:,} requests, {cost.tokens_in:,} tokens read and "
          f"{cost.tokens_out:,} written{money}", flush=True)
