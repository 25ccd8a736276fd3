"""Execute a run folder: `saescope run <folder>`.  Running it again resumes it.

The folder's contract is in `sae.runs.folder`.  torch and the language model are imported only when
there is work for them, so this module can be imported by anything.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import Timeout

from sae.errors import Cancelled, Interrupted, UserError
from sae.runs import compare, import_sae
from sae.runs.folder import FINAL_STATES, RunFolder
from sae.runs.progress import Follower, Reporter
from sae.runs.steps import build_index, open_model_and_text, text_of
from sae.specs.registry import (
    CompareSpec,
    EvaluateSpec,
    ImportSpec,
    IndexSpec,
    SweepSpec,
    TrainSpec,
    parse_spec,
)
from sae.workspace.files import lock
from sae.workspace.paths import Workspace

# Each phase's share of the whole run's time, for the estimate of the time left.
PHASES: dict[str, dict[str, float]] = {
    "train": {"text": 4, "training": 60, "evaluation": 10, "index": 26},
    "sweep": {"text": 4, "training": 60, "evaluation": 10, "index": 26},
    "index": {"text": 5, "index": 95},
    "evaluate": {"text": 5, "evaluation": 95},
    "import": import_sae.PHASES,
    "compare": compare.PHASES,
}

# Exit codes of `saescope run`.
EXIT_OK, EXIT_FAILED, EXIT_USER, EXIT_CANCELLED, EXIT_INTERRUPTED = 0, 1, 2, 3, 4


def execute(folder: RunFolder, workspace: Workspace) -> int:
    """Carry out, or resume, what the folder asks for; return the exit code.  Never raises an `Exception`.

    Of the processes of a `torchrun` the first one holds the lock and writes; the others help it to train.
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
    except Exception:  # not even the status could be written
        traceback.print_exc()
        return EXIT_FAILED


@contextlib.contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """Hold the run's lock.  Raises UserError where another process has it."""
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
        print(f"run {folder.id} has succeeded already")
        return EXIT_OK
    if status and status.state in FINAL_STATES:  # stopped once, and now started again on purpose
        folder.clear_cancel()
    kind, values = folder.spec()
    if _rank() and kind not in ("train", "sweep"):
        return EXIT_OK  # the other kinds are one process's work
    reporter = (Follower if _rank() else Reporter)(folder, _phases(kind, values))
    reporter.catch_signals()
    try:
        spec = parse_spec(kind, values)
        works: dict[type, Callable[..., dict[str, Any]]] = {
            TrainSpec: _train, SweepSpec: _train, IndexSpec: _index, EvaluateSpec: _evaluate, ImportSpec: _import,
            CompareSpec: compare.run_compare}
        reporter.status.result = works[type(spec)](spec, folder, workspace, reporter)
    except Interrupted:
        reporter.finish("interrupted")
        print("interrupted; the same run resumes where it was")
        return EXIT_INTERRUPTED
    except Cancelled:
        reporter.finish("cancelled")
        print("cancelled")
        return EXIT_CANCELLED
    except UserError as error:
        reporter.finish("failed", str(error))
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    except Exception as error:
        traceback.print_exc()
        reporter.finish("failed", f"{type(error).__name__}: {error}")
        return EXIT_FAILED
    if _rank():
        return EXIT_OK
    shutil.rmtree(folder.checkpoints, ignore_errors=True)  # all that they led to is finished
    reporter.finish("succeeded")
    result = reporter.status.result
    made = [str(member["name"]) for member in result.get("members", [])]
    print("done: " + ", ".join(made or [f"{key} {value}" for key, value in result.items() if isinstance(value, str)]))
    return EXIT_OK


def _rank() -> int:
    """The number of this process among those of a `torchrun`, 0 for one alone."""
    return int(os.environ.get("RANK", "0"))


def _phases(kind: str, values: dict[str, Any]) -> dict[str, float]:
    phases = dict(PHASES.get(kind, {}))  # a kind that does not exist is refused where specs are parsed
    if kind in ("train", "sweep", "import") and values.get("index") is False:
        del phases["index"]
    return phases


# ---- the kinds of run


def _train(
    spec: TrainSpec | SweepSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter
) -> dict[str, Any]:
    from sae.distributed.world import close_world
    from sae.runs.train import train_members

    try:
        return train_members(spec, folder, workspace, reporter)
    finally:
        close_world()


def _index(spec: IndexSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    from sae.autoencoder.artefact import Autoencoder
    from sae.autoencoder.config import read_config

    config = read_config(workspace.sae(spec.sae))
    text, column, split = text_of(config, spec.text, spec.text_column, spec.text_split)
    lm, corpus = open_model_and_text(config["model"]["name"], spec.device, text, column, split,
                                     config["context_length"], workspace, reporter)
    sae = Autoencoder.load(workspace.sae(spec.sae), lm.device)
    return {"sae": spec.sae, "build": build_index(spec, sae, lm, corpus, folder, workspace, reporter)}


def _evaluate(spec: EvaluateSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    from sae.autoencoder.artefact import Autoencoder
    from sae.autoencoder.config import read_config, update_config
    from sae.evaluation.metrics import evaluate

    config = read_config(workspace.sae(spec.sae))
    lm, corpus = open_model_and_text(config["model"]["name"], spec.device, *text_of(config, "", "text", "train"),
                                     config["context_length"], workspace, reporter)
    sae = Autoencoder.load(workspace.sae(spec.sae), lm.device)
    reporter.begin("evaluation")
    metrics = evaluate(lm, sae, corpus, spec.eval_tokens, spec.ce_tokens, reporter.update)
    reporter.row(**metrics)
    update_config(workspace.sae(spec.sae), metrics=metrics)
    return {"sae": spec.sae, "metrics": metrics}


def _import(spec: ImportSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    return import_sae.import_sae(spec, folder, workspace, reporter, open_model_and_text, build_index)


def folder_of(path: Path) -> tuple[RunFolder, Workspace]:
    """The run folder at `path`, and the workspace it belongs to.  Raises UserError."""
    path = path.resolve()
    if path.name == "spec.json":
        path = path.parent
    if not (path / "spec.json").exists():
        raise UserError(f"run: there is no spec.json in {path}", "run")
    inside = path.parent.name == "runs"
    return RunFolder(path), Workspace(path.parent.parent) if inside else Workspace.from_environment()
