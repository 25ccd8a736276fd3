"""The run that measures an SAE, one measure after another.

Each measure's file is written as soon as it is complete.  A run that is started again skips the measures whose file it
has written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from sae import __version__
from sae.errors import UserError
from sae.evaluation.probe_sets import check_labels
from sae.evaluation.registry import ENTRIES, load_measure
from sae.evaluation.results import Anchor, StoredResult, StoredValue, read_result, write_result
from sae.runs.folder import RunFolder
from sae.runs.names import names_lock
from sae.runs.progress import Reporter
from sae.runs.steps import open_model_and_text, reading_of, text_of, text_tokens_of
from sae.specs.registry import EvaluateSpec, command_line, parse_spec
from sae.workspace.paths import Workspace

if TYPE_CHECKING:
    from sae.autoencoder.artefact import Autoencoder
    from sae.data.corpus import Corpus
    from sae.evaluation.measure import Measure, Progress, Result, Subject
    from sae.lm.bridge import LanguageModel

_PARTS = 1000  # steps of a measure's progress
_METRICS = ("fvu", "l0", "l0_std", "ce_clean", "ce_sae", "delta_ce", "ce_zero", "ce_mean", "ce_recovered_zero",
            "ce_recovered_mean")
_ANCHOR_SHARE = 4  # an anchor is measured on this part of the tokens, because its numbers need fewer digits
_ANCHOR_TOKENS = 8_192  # on which the random dictionary's θ is set


def phases(values: Mapping[str, Any]) -> dict[str, float]:
    """Return each phase's share of the run's time: the text, and every measure."""
    try:
        names = parse_spec("evaluate", dict(values)).measures  # type: ignore[union-attr]
    except UserError:  # the run will say so
        names = ()
    return {"text": 4.0} | {name: ENTRIES[name].seconds for name in names}


def run_evaluate(spec: EvaluateSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    """Measure `spec.sae` and return the run's result.

    Raises UserError if the SAE, its text or the labels cannot be used, or if no measure is possible.
    """
    from sae.autoencoder.artefact import Autoencoder
    from sae.autoencoder.config import read_config, update_config

    home = workspace.sae(spec.sae)
    config = read_config(home)
    check_labels(Path(spec.labels) if spec.labels else None)
    lm, corpus = open_model_and_text(config["model"]["name"], spec.device, *text_of(config, "", "text", "train"),
                                     config["context_length"], workspace, reporter, text_tokens=text_tokens_of(config),
                                     **reading_of(config))
    sae = Autoencoder.load(home, lm.device)
    result: dict[str, Any] = {"sae": spec.sae}
    refused: dict[str, str] = {}
    for name in spec.measures:
        found = read_result(home, name)
        if found is None or found.run != folder.id:
            reporter.begin(name, _PARTS, "parts")
            found = _measured(name, spec, sae, lm, corpus, folder, workspace, reporter)
            _keep(workspace, spec.sae, found)
        if found.refused:
            refused[name] = found.refused
            print(f"{name}: {found.refused}", flush=True)
        elif name == "core":
            result["metrics"] = metrics_of(found, sae.n_latents)
            reporter.row(**result["metrics"])
            update_config(home, metrics=result["metrics"])
    if len(refused) == len(spec.measures):
        raise UserError(next(iter(refused.values())), "measures")
    return {**result, "measured": [name for name in spec.measures if name not in refused], "refused": refused}


def metrics_of(core: StoredResult, n_latents: int) -> dict[str, Any]:
    """Return the metrics of `sae.json`, which tables and cards show, from the values of the core measure."""
    values = {value.key: value for value in core.values if value.value is not None}
    found: dict[str, Any] = {key: values[key].value for key in _METRICS if key in values}
    if (alive := values.get("alive_share")) is not None and alive.value is not None:
        found |= {"dead_fraction": 1 - alive.value, "dead": round(n_latents * (1 - alive.value))}
    sizes = {"tokens": "fvu", "ce_tokens": "delta_ce"}
    return found | {name: int(n) for name, key in sizes.items() if key in values and (n := values[key].n) is not None}


def _measured(
    name: str, spec: EvaluateSpec, sae: Autoencoder, lm: LanguageModel, corpus: Corpus, folder: RunFolder,
    workspace: Workspace, reporter: Reporter,
) -> StoredResult:
    """Return the result of one measure, or its refusal."""
    measure, definitions = load_measure(name, spec.model_dump())
    builds = workspace.build_ids(spec.sae)
    subjects = [_subject(spec, seed, sae, lm, corpus, workspace.build(spec.sae, builds[-1]) if builds else None)
                for seed in range(spec.seed, spec.seed + spec.seeds)]
    started = time.time()
    common: dict[str, Any] = {
        "measure": name, "text": str(corpus.info["text"]), "text_fingerprint": str(corpus.info["fingerprint"]),
        "tokens": _counted(corpus, subjects[0]), "seeds": tuple(subject.seed for subject in subjects),
        "build": builds[-1] if builds else "", "labels": spec.labels, "run": folder.id,
        "command": command_line("evaluate", {**spec.model_dump(), "measures": (name,)}), "created": started,
        "saescope_version": __version__}
    if line := measure.refuse(subjects[0]):
        return StoredResult(refused=line, **common)
    anchored, sizes = ENTRIES[name].anchored, ENTRIES[name].sizes
    parts = _parts([1.0] * len(subjects) + [1 / _ANCHOR_SHARE if sizes else 1.0] * anchored, reporter)
    try:
        results = [measure.run(subject, next(parts)) for subject in subjects]
    except UserError as error:
        return StoredResult(refused=str(error), **common)
    anchors: tuple[Anchor, ...] = ()
    if anchored:
        settings = spec.model_dump()
        smaller = {name: settings[name] // _ANCHOR_SHARE for name in sizes.values()}
        rough = load_measure(name, settings | smaller)[0]
        anchors = (_random_anchor(rough, subjects[0], definitions, next(parts)),)
    return StoredResult(
        values=_values(results, definitions), detail=results[0].detail, anchors=anchors, seconds=time.time() - started,
        peak_bytes=_peak_bytes(), **common)


def _subject(
    spec: EvaluateSpec, seed: int, sae: Autoencoder, lm: LanguageModel, corpus: Corpus, build: Path | None,
) -> Subject:
    from sae.evaluation.measure import Subject
    from sae.evaluation.metrics import held_out_contexts

    contexts = held_out_contexts(corpus, spec.eval_tokens, seed)[1]  # the first half is for calibration
    return Subject(sae, lm, corpus, contexts, seed, build, Path(spec.labels) if spec.labels else None)


def _counted(corpus: Corpus, subject: Subject) -> int:
    from sae.evaluation.metrics import counted_tokens

    return counted_tokens(corpus, subject.contexts)


def _random_anchor(
    measure: Measure, subject: Subject, definitions: Mapping[str, str], progress: Progress,
) -> Anchor:
    """Measure a random dictionary on the same text."""
    from dataclasses import replace

    import torch

    from sae.evaluation.anchors import RANDOM, RANDOM_NOTE, random_dictionary
    from sae.evaluation.metrics import counted_rows, held_out_contexts, left_out_of, sites

    sae, lm, corpus = subject.sae, subject.model, subject.corpus
    calibration = held_out_contexts(corpus, _ANCHOR_TOKENS, subject.seed)[0]
    rows_NW = torch.cat(list(counted_rows(lm, corpus, calibration, sites(sae), None, left_out_of(sae))))
    dictionary = random_dictionary(sae, rows_NW, subject.seed)
    found = measure.run(replace(subject, sae=dictionary, build=None), progress)
    return Anchor(RANDOM, _values([found], definitions), RANDOM_NOTE)


def _parts(shares: Sequence[float], reporter: Reporter) -> Iterator[Callable[[int, int], None]]:
    """Yield the progress callbacks of the parts of a phase, which take these shares of its time."""
    total = sum(shares)
    for number, share in enumerate(shares):
        before = sum(shares[:number])

        def report(done: int, of: int, before: float = before, share: float = share) -> None:
            reporter.update(_PARTS * (before + share * min(1.0, done / max(of, 1))) / total)

        yield report


def _values(results: Sequence[Result], definitions: Mapping[str, str]) -> tuple[StoredValue, ...]:
    """Merge the values of repetitions: the mean, in an interval that encloses those of all repetitions."""
    found = []
    for value in results[0].values:
        same = [one for result in results for one in result.values if one.key == value.key]
        numbers = [one.value for one in same if one.value is not None]
        ends = [end for one in same for end in (one.low, one.value, one.high) if end is not None]
        spread = len(numbers) > 1 or value.low is not None
        found.append(StoredValue(
            value.key, sum(numbers) / len(numbers) if numbers else None, min(ends) if ends and spread else None,
            max(ends) if ends and spread else None, value.n, value.note, definitions.get(value.key, "")))
    return tuple(found)


def _keep(workspace: Workspace, sae_id: str, result: StoredResult) -> None:
    """Write the result unless the SAE is gone.  Raises UserError (field `sae`) if it is."""
    with names_lock(workspace):
        if not (workspace.sae(sae_id) / "sae.json").exists():
            raise UserError(f"sae: {sae_id} was deleted or renamed while this run was reading it", "sae")
        write_result(workspace.sae(sae_id), result)


def _peak_bytes() -> int:
    """Return the most memory that this process has had so far, or has now where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return int(psutil.Process().memory_info().rss)
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
