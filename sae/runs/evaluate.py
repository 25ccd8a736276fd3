"""The run that measures an SAE, one measure after another.

An evaluation consists of pieces, a repetition of a measure or its random dictionary each, which the run or its parts
make.  A measure's file is written as soon as its pieces are complete.  A run that is started again makes neither a
measure nor a piece twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from sae import __version__
from sae.errors import UserError
from sae.evaluation.probe_sets import check_labels
from sae.evaluation.registry import ENTRIES, load_measure
from sae.evaluation.results import Anchor, StoredResult, StoredValue, finite, read_result, write_result
from sae.runs.folder import RunFolder
from sae.runs.names import names_lock
from sae.runs.parts import divide, parent_of, parts_folder
from sae.runs.progress import Reporter
from sae.runs.steps import open_model_and_text, reading_of, text_of, text_tokens_of
from sae.specs.registry import EvaluateSpec, PartSpec, command_line, parse_spec
from sae.workspace.files import write_json, write_json_once
from sae.workspace.paths import Workspace

if TYPE_CHECKING:
    from sae.autoencoder.artefact import Autoencoder
    from sae.data.corpus import Corpus
    from sae.evaluation.measure import Measure, Progress, Result, Subject

_PARTS = 1000  # steps of a measure's progress
_METRICS = ("fvu", "l0", "l0_std", "ce_clean", "ce_sae", "delta_ce", "ce_zero", "ce_mean", "ce_recovered_zero",
            "ce_recovered_mean")
_ANCHOR_SHARE = 4  # an anchor is measured on this part of the tokens, because its numbers need fewer digits
RANDOM_PIECE = -1  # the number of the piece that measures a random dictionary
_ANCHOR_TOKENS = 8_192  # on which the random dictionary's θ is set


def phases(values: Mapping[str, Any]) -> dict[str, float]:
    """Return each phase's share of the run's time: the text, and every measure."""
    try:
        names = parse_spec("evaluate", dict(values)).measures  # type: ignore[union-attr]
    except UserError:  # the run will say so
        names = ()
    return {"text": 4.0} | {name: ENTRIES[name].seconds for name in names}


def run_evaluate(spec: EvaluateSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    """Measure `spec.sae` and return the run's result.  Pieces that another run has made are not made again.

    Raises UserError if the SAE, its text or the labels cannot be used, or if no measure is possible.
    """
    from sae.autoencoder.config import update_config

    home = workspace.sae(spec.sae)
    work = _Work.open(spec, folder, workspace, reporter)
    result: dict[str, Any] = {"sae": spec.sae}
    refused: dict[str, str] = {}
    for name in spec.measures:
        found = read_result(home, name)
        if found is None or found.run != folder.id:
            reporter.begin(name, _PARTS, "parts")
            found = work.measured(name)
            _keep(workspace, spec.sae, found)
        if found.refused:
            refused[name] = found.refused
            print(f"{name}: {found.refused}", flush=True)
        elif name == "core":
            result["metrics"] = metrics_of(found, work.sae.n_latents)
            reporter.row(**result["metrics"])
            update_config(home, metrics=result["metrics"])
    if len(refused) == len(spec.measures):
        raise UserError(next(iter(refused.values())), "measures")
    return {**result, "measured": [name for name in spec.measures if name not in refused], "refused": refused}


def run_evaluate_part(part: PartSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    """Make one part of an evaluation's pieces, and leave them for it.  Return the run's result.  Raises UserError."""
    parent, spec = parent_of(part, "evaluate", workspace)
    assert isinstance(spec, EvaluateSpec)
    pieces = list_pieces(spec)
    mine = [pieces[i] for i in divide([piece.cost for piece in pieces], spec.shards)[part.part - 1]]
    work = _Work.open(spec, parent, workspace, reporter)
    for name in dict.fromkeys(piece.measure for piece in mine):
        reporter.begin(name, _PARTS, "parts")
        work.pieces([piece for piece in mine if piece.measure == name])
    return {"sae": spec.sae}


def check_pieces(spec: EvaluateSpec) -> None:
    """Raise UserError (field `shards`) if there are fewer pieces than parts."""
    n = len(list_pieces(spec))
    if spec.shards > n:
        raise UserError(f"shards: this evaluation has {n} pieces (measures, repetitions, random dictionaries), so "
                        "it has at most as many parts", "shards")


@dataclass(frozen=True)
class Piece:
    """One repetition of a measure, or its random dictionary: the smallest part of an evaluation."""

    measure: str
    number: int  # of the repetition; RANDOM_PIECE: the random dictionary

    @property
    def cost(self) -> float:
        """Return the share of the run's time."""
        entry = ENTRIES[self.measure]
        return entry.seconds / (_ANCHOR_SHARE if self.number == RANDOM_PIECE and entry.sizes else 1)


def list_pieces(spec: EvaluateSpec) -> list[Piece]:
    """Return the pieces of an evaluation in the order in which one run makes them."""
    return [Piece(name, number) for name in spec.measures
            for number in [*range(spec.seeds), *([RANDOM_PIECE] if ENTRIES[name].anchored else [])]]


def metrics_of(core: StoredResult, n_latents: int) -> dict[str, Any]:
    """Return the metrics of `sae.json`, which tables and cards show, from the values of the core measure."""
    values = {value.key: value for value in core.values if value.value is not None}
    found: dict[str, Any] = {key: values[key].value for key in _METRICS if key in values}
    if (alive := values.get("alive_share")) is not None and alive.value is not None:
        found |= {"dead_fraction": 1 - alive.value, "dead": round(n_latents * (1 - alive.value))}
    sizes = {"tokens": "fvu", "ce_tokens": "delta_ce"}
    return found | {name: int(n) for name, key in sizes.items() if key in values and (n := values[key].n) is not None}


@dataclass(frozen=True)
class _Work:
    """An evaluation with everything that its pieces read.  Finished pieces are files in the run's folder of parts."""

    spec: EvaluateSpec
    folder: RunFolder
    sae: Autoencoder
    subjects: list[Subject]
    reporter: Reporter

    @classmethod
    def open(cls, spec: EvaluateSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> _Work:
        """Load the model, the text and the SAE.  All processes of a run read the same build."""
        from sae.autoencoder.artefact import Autoencoder
        from sae.autoencoder.config import read_config
        from sae.evaluation.measure import Subject
        from sae.evaluation.metrics import held_out_contexts

        config = read_config(workspace.sae(spec.sae))
        labels = Path(spec.labels) if spec.labels else None
        check_labels(labels)
        lm, corpus = open_model_and_text(
            config["model"]["name"], spec.device, *text_of(config, "", "text", "train"), config["context_length"],
            workspace, reporter, text_tokens=text_tokens_of(config), **reading_of(config))
        sae = Autoencoder.load(workspace.sae(spec.sae), lm.device)
        builds = workspace.build_ids(spec.sae)
        build = write_json_once(parts_folder(folder) / "build.json", builds[-1] if builds else "")
        if build not in builds:  # it was deleted meanwhile
            build = builds[-1] if builds else ""
        path = workspace.build(spec.sae, build) if build else None
        return cls(spec, folder, sae, [  # the first half of the contexts is for calibration
            Subject(sae, lm, corpus, held_out_contexts(corpus, spec.eval_tokens, seed)[1], seed, path, labels)
            for seed in range(spec.seed, spec.seed + spec.seeds)], reporter)

    def measured(self, name: str) -> StoredResult:
        """Return the result of one measure, or its refusal."""
        from sae.evaluation.anchors import RANDOM, RANDOM_NOTE

        first, created = self.subjects[0], time.time()
        made = self.pieces([piece for piece in list_pieces(self.spec) if piece.measure == name])
        definitions = load_measure(name, self.spec.model_dump())[1]
        common: dict[str, Any] = {
            "measure": name, "text": str(first.corpus.info["text"]),
            "text_fingerprint": str(first.corpus.info["fingerprint"]), "tokens": _counted(first.corpus, first),
            "seeds": tuple(subject.seed for subject in self.subjects), "build": first.build.stem if first.build else "",
            "labels": self.spec.labels, "run": self.folder.id,
            "command": command_line("evaluate", {**self.spec.model_dump(), "measures": (name,), "shards": 1}),
            "created": created, "saescope_version": __version__}
        if refused := next((piece["refused"] for piece in made.values() if piece["refused"]), ""):
            return StoredResult(refused=refused, **common)
        repetitions = [made[number] for number in range(self.spec.seeds)]
        anchors: tuple[Anchor, ...] = ()
        if RANDOM_PIECE in made:
            anchors = (Anchor(RANDOM, _values([made[RANDOM_PIECE]], definitions), RANDOM_NOTE),)
        return StoredResult(
            values=_values(repetitions, definitions), detail=repetitions[0]["detail"], anchors=anchors,
            seconds=sum(piece["seconds"] for piece in made.values()),
            peak_bytes=max(piece["peak_bytes"] for piece in made.values()), **common)

    def pieces(self, pieces: Sequence[Piece]) -> dict[int, dict[str, Any]]:
        """Return the pieces of one measure by number, and make those that no process has made, up to a refusal."""
        made: dict[int, dict[str, Any]] = {}
        for piece, progress in zip(pieces, _parts([piece.cost for piece in pieces], self.reporter), strict=True):
            path = parts_folder(self.folder) / f"{piece.measure}-{piece.number}.json"
            if not path.exists():
                write_json(path, finite(self._made(piece, progress)))
            made[piece.number] = json.loads(path.read_text(encoding="utf-8"))
            if made[piece.number]["refused"]:
                break
        return made

    def _made(self, piece: Piece, progress: Progress) -> dict[str, Any]:
        """Make a piece: its values and detail as JSON, or the reason why it is refused."""
        started = time.time()
        settings = self.spec.model_dump()
        measure = load_measure(piece.measure, settings)[0]
        refused, found = measure.refuse(self.subjects[0]) or "", None
        try:
            if not refused and piece.number == RANDOM_PIECE:
                smaller = {name: settings[name] // _ANCHOR_SHARE for name in ENTRIES[piece.measure].sizes.values()}
                found = _random_anchor(
                    load_measure(piece.measure, settings | smaller)[0], self.subjects[0], progress)
            elif not refused:
                found = measure.run(self.subjects[piece.number], progress)
        except UserError as error:
            if piece.number == RANDOM_PIECE:
                raise
            refused = str(error)
        return {"values": [asdict(value) for value in found.values] if found else [],
                "detail": found.detail if found else {}, "refused": refused, "seconds": time.time() - started,
                "peak_bytes": _peak_bytes()}


def _counted(corpus: Corpus, subject: Subject) -> int:
    from sae.evaluation.metrics import counted_tokens

    return counted_tokens(corpus, subject.contexts)


def _random_anchor(measure: Measure, subject: Subject, progress: Progress) -> Result:
    """Measure a random dictionary on the same text."""
    from dataclasses import replace

    import torch

    from sae.evaluation.anchors import random_dictionary
    from sae.evaluation.metrics import counted_rows, held_out_contexts, left_out_of, sites

    sae, lm, corpus = subject.sae, subject.model, subject.corpus
    calibration = held_out_contexts(corpus, _ANCHOR_TOKENS, subject.seed)[0]
    rows_NW = torch.cat(list(counted_rows(lm, corpus, calibration, sites(sae), None, left_out_of(sae))))
    dictionary = random_dictionary(sae, rows_NW, subject.seed)
    return measure.run(replace(subject, sae=dictionary, build=None), progress)


def _parts(shares: Sequence[float], reporter: Reporter) -> Iterator[Callable[[int, int], None]]:
    """Yield the progress callbacks of the parts of a phase, which take these shares of its time."""
    total = sum(shares)
    for number, share in enumerate(shares):
        before = sum(shares[:number])

        def report(done: int, of: int, before: float = before, share: float = share) -> None:
            reporter.update(_PARTS * (before + share * min(1.0, done / max(of, 1))) / total)

        yield report


def _values(results: Sequence[dict[str, Any]], definitions: Mapping[str, str]) -> tuple[StoredValue, ...]:
    """Merge the values of repetitions: the mean, in an interval that encloses those of all repetitions."""
    found = []
    for value in results[0]["values"]:
        key = value["key"]
        same = [one for result in results for one in result["values"] if one["key"] == key]
        numbers = [one["value"] for one in same if one["value"] is not None]
        ends = [end for one in same for end in (one["low"], one["value"], one["high"]) if end is not None]
        spread = len(numbers) > 1 or value["low"] is not None
        found.append(StoredValue(
            key, sum(numbers) / len(numbers) if numbers else None, min(ends) if ends and spread else None,
            max(ends) if ends and spread else None, value["n"], value["note"], definitions.get(key, "")))
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
