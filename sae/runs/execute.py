"""Execution of a run folder: `saescope run <folder>`.  Running the command again resumes the run.

`sae.runs.folder` describes the contract of the folder.  This module imports torch and the language model only
when there is work for them, so any module can import it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from sae.errors import Cancelled, Interrupted, UserError
from sae.runs import compare, evaluate, explain, import_sae, kept, sweep_parts
from sae.runs.folder import FINAL_STATES, RunFolder
from sae.runs.names import release_run
from sae.runs.parts import parent_of, parts_folder
from sae.runs.progress import Follower, Reporter
from sae.runs.space import check_space
from sae.runs.steps import build_index, open_model_and_text, reading_of, text_of, text_tokens_of
from sae.specs.registry import (
    SPECS,
    ActivationsSpec,
    CompareSpec,
    EvaluateSpec,
    ExplainSpec,
    ImportSpec,
    IndexSpec,
    PartSpec,
    SweepSpec,
    TrainSpec,
    parse_spec,
    part_kind,
)
from sae.workspace.disk import is_full
from sae.workspace.files import lock
from sae.workspace.paths import Workspace

if TYPE_CHECKING:
    from sae.autoencoder.artefact import Autoencoder
    from sae.data.corpus import Corpus
    from sae.lm.bridge import LanguageModel

# Each phase's share of the whole run's time, for the estimate of the time left.
PHASES: dict[str, dict[str, float]] = {
    "train": {"text": 4, "training": 60, "evaluation": 10, "index": 26},
    "sweep": {"text": 4, "training": 60, "evaluation": 10, "index": 26},
    "index": {"text": 5, "index": 95},
    "activations": kept.PHASES,
    "import": import_sae.PHASES,
    "compare": compare.PHASES,
    "explain": explain.PHASES,
}

_FULL = ("disk: the disk is full; free some space (saescope gc lists what can go), then resume the run, which goes on "
         "from its last checkpoint")

# Exit codes of `saescope run`.
EXIT_OK, EXIT_FAILED, EXIT_USER, EXIT_CANCELLED, EXIT_INTERRUPTED = 0, 1, 2, 3, 4


def execute(folder: RunFolder, workspace: Workspace) -> int:
    """Execute or resume the run in `folder` and return the exit code.  Never raises an `Exception`.

    Under `torchrun`, the process of rank 0 holds the lock and writes; the others only take part in training.
    """
    try:
        if _rank() > 0:
            with contextlib.redirect_stdout(None):
                return _execute(folder, workspace)
        with _alone(folder):
            return _execute(folder, workspace)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    except Exception as error:  # the status itself could not be written, so the log is the only place left
        if is_full(error):
            print(f"error: {_FULL}", file=sys.stderr)
            return EXIT_USER
        traceback.print_exc()
        return EXIT_FAILED


@contextlib.contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """Hold the run's lock.  Raises UserError if another process holds it."""
    held = lock(folder.path / "lock")
    try:
        held.acquire(blocking=False)
    except Timeout:
        raise UserError(f"run: {folder.id} is being executed by another process", "run") from None
    with held:
        yield


def _execute(folder: RunFolder, workspace: Workspace) -> int:
    status = folder.status()
    if status and status.state == "succeeded":
        print(f"run {folder.id} has already succeeded")
        return EXIT_OK
    if status and status.state in FINAL_STATES:  # it was stopped, and somebody starts it again on purpose
        folder.clear_cancel()
    kind, values = folder.spec()
    if _rank() and kind not in ("train", "sweep", part_kind("sweep")):
        return EXIT_OK  # only training is shared between processes
    reporter = (Follower if _rank() else Reporter)(folder, _phases(kind, values, workspace))
    reporter.catch_signals()
    try:
        reporter.check()  # a cluster may start a job that was cancelled while it waited
        spec = parse_spec(kind, values)
        check_space(spec, folder, workspace)
        executors: dict[type, Callable[..., dict[str, Any]]] = {
            TrainSpec: _train, SweepSpec: _train, IndexSpec: _index, EvaluateSpec: evaluate.run_evaluate,
            ImportSpec: _import, CompareSpec: compare.run_compare, ExplainSpec: explain.run_explain,
            ActivationsSpec: kept.run_activations}
        work = _PARTS[kind] if isinstance(spec, PartSpec) else executors[type(spec)]
        reporter.status.result = work(spec, folder, workspace, reporter)
    except Interrupted:
        reporter.finish("interrupted")
        print("interrupted; run the same command again to resume")
        return EXIT_INTERRUPTED
    except Cancelled:
        _give_up(folder, workspace)
        reporter.finish("cancelled")
        print("cancelled")
        return EXIT_CANCELLED
    except UserError as error:
        _give_up(folder, workspace)
        reporter.finish("failed", str(error))
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    except Exception as error:
        if is_full(error):
            _give_up(folder, workspace)
            return _out_of_space(folder, reporter)
        traceback.print_exc()
        _give_up(folder, workspace)
        reporter.finish("failed", f"{type(error).__name__}: {error}")
        return EXIT_FAILED
    if _rank():
        return EXIT_OK
    shutil.rmtree(folder.checkpoints, ignore_errors=True)  # nothing needs them after success
    reporter.finish("succeeded")
    result = reporter.status.result
    made = [str(member["name"]) for member in result.get("members", [])]
    print("done: " + ", ".join(made or [f"{key} {value}" for key, value in result.items() if isinstance(value, str)]))
    return EXIT_OK


def _out_of_space(folder: RunFolder, reporter: Reporter) -> int:
    """Report that the disk is full.  The checkpoint before the last makes room for the status."""
    for file in folder.checkpoints.glob("*.before"):
        file.unlink(missing_ok=True)
    print(f"error: {_FULL}", file=sys.stderr)
    with contextlib.suppress(OSError):
        reporter.finish("failed", _FULL)
    return EXIT_USER


def _give_up(folder: RunFolder, workspace: Workspace) -> None:
    """Free the names that a run claimed and will not use."""
    if not _rank():
        release_run(folder, workspace)


def _rank() -> int:
    """Return this process's rank under `torchrun`, or 0 without it."""
    return int(os.environ.get("RANK", "0"))


def _phases(kind: str, values: dict[str, Any], workspace: Workspace) -> dict[str, float]:
    if SPECS.get(kind) is PartSpec:  # it has those of its parent
        with contextlib.suppress(UserError, OSError):  # the run will say that it has no parent
            kind, values = RunFolder(workspace.run(str(values.get("run")))).spec()
    if kind == "evaluate":
        return evaluate.phases(values)
    phases = dict(PHASES.get(kind, {}))  # `parse_spec` refuses a kind that does not exist
    if kind in ("train", "sweep", "import") and values.get("index") is False:
        del phases["index"]
    if kind == "sweep" and kept.keeps_first(values):
        phases = {"text": phases.pop("text"), "activations": 40, **phases}
    return phases


# ---- the kinds of run


def _train(
    spec: TrainSpec | SweepSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter
) -> dict[str, Any]:
    from sae.distributed.world import close_world
    from sae.runs.train import train_members

    try:
        if isinstance(spec, SweepSpec) and spec.parts > 1:
            return sweep_parts.train_the_rest(spec, folder, workspace, reporter)
        return train_members(spec, folder, workspace, reporter)
    finally:
        close_world()


def _sweep_part(part: PartSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    from sae.distributed.world import close_world

    try:
        return sweep_parts.train_part(part, folder, workspace, reporter)
    finally:
        close_world()


def _index(spec: IndexSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    sae, lm, corpus = _opened(spec, workspace, reporter)
    return {"sae": spec.sae, "build": build_index(spec, sae, lm, corpus, folder, workspace, reporter)}


def _index_part(part: PartSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    from sae.index.build import build_part

    parent, index = parent_of(part, "index", workspace)
    assert isinstance(index, IndexSpec)
    sae, lm, corpus = _opened(index, workspace, reporter)
    reporter.begin("index", index.index_tokens // index.shards)
    build_part(lm, sae, corpus, index, parts_folder(parent), part.part, index.shards,
               checkpoint=folder.checkpoints / "index.pt", update=reporter.update)
    return {"sae": index.sae}


def _opened(spec: IndexSpec, workspace: Workspace, reporter: Reporter) -> tuple[Autoencoder, LanguageModel, Corpus]:
    """Return the SAE, the language model and the text of an index."""
    from sae.autoencoder.artefact import Autoencoder
    from sae.autoencoder.config import read_config

    config = read_config(workspace.sae(spec.sae))
    text, column, split = text_of(config, spec.text, spec.text_column, spec.text_split)
    lm, corpus = open_model_and_text(config["model"]["name"], spec.device, text, column, split,
                                     config["context_length"], workspace, reporter,
                                     text_tokens=text_tokens_of(config, spec.text, spec.text_tokens),
                                     **reading_of(config))
    return Autoencoder.load(workspace.sae(spec.sae), lm.device), lm, corpus


def _import(spec: ImportSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    return import_sae.import_sae(spec, folder, workspace, reporter, open_model_and_text, build_index)


# What does a part of a run of each kind.
_PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    part_kind("index"): _index_part, part_kind("sweep"): _sweep_part,
    part_kind("evaluate"): evaluate.run_evaluate_part, part_kind("explain"): explain.run_explain_part}


def folder_of(path: Path) -> tuple[RunFolder, Workspace]:
    """Return the run folder at `path` and the workspace it belongs to.  Raises UserError (field `run`)."""
    path = path.resolve()
    if path.name == "spec.json":
        path = path.parent
    if not (path / "spec.json").exists():
        raise UserError(f"run: there is no spec.json in {path}", "run")
    inside = path.parent.name == "runs"
    return RunFolder(path), Workspace(path.parent.parent) if inside else Workspace.from_environment()
