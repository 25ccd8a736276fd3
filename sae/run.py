"""Execute a run folder: `saescope run <folder>`.  Running it again resumes it.

The folder's contract is in `sae.rundir`.  torch and the language model are imported only when
there is work for them, so this module can be imported by anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae import __version__
from sae.errors import Cancelled, UserError
from sae.models import check_layer, find_model
from sae.progress import Interrupted, Reporter
from sae.rundir import FINAL_STATES, RunFolder
from sae.sites import resid_post
from sae.specs import EvaluateSpec, IndexSettings, IndexSpec, TrainSpec, command_line, located, parse_spec
from sae.workspace import Workspace, check_name, new_id, slug

if TYPE_CHECKING:
    from sae.autoencoder import Autoencoder
    from sae.corpus import Corpus
    from sae.lm import LanguageModel

# Each phase's share of the whole run's time, for the estimate of the time left.
PHASES: dict[str, dict[str, float]] = {
    "train": {"text": 4, "training": 60, "evaluation": 10, "index": 26},
    "index": {"text": 5, "index": 95},
    "evaluate": {"text": 5, "evaluation": 95},
}

# Exit codes of `saescope run`.
EXIT_OK, EXIT_FAILED, EXIT_USER, EXIT_CANCELLED, EXIT_INTERRUPTED = 0, 1, 2, 3, 4


def execute(folder: RunFolder, workspace: Workspace) -> int:
    """Do, or go on with, what the folder asks for; returns the exit code, never raises."""
    try:
        with _alone(folder):
            return _execute(folder, workspace)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER


@contextlib.contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """Hold the run's lock.  The system lets go of it when the process ends, however it ends."""
    with open(folder.path / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"run: {folder.id} is being executed by another process", "run") from None
        yield


def _execute(folder: RunFolder, workspace: Workspace) -> int:
    status = folder.status()
    if status and status.state == "succeeded":
        print(f"run {folder.id} has succeeded already")
        return EXIT_OK
    if status and status.state in FINAL_STATES:  # stopped once, and now started again on purpose
        folder.clear_cancel()
    kind, values = folder.spec()
    reporter = Reporter(folder, _phases(kind, values))
    reporter.catch_signals()
    try:
        spec = parse_spec(kind, values)
        works: dict[type, Callable[..., dict[str, Any]]] = {TrainSpec: _train, IndexSpec: _index,
                                                            EvaluateSpec: _evaluate}
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
    shutil.rmtree(folder.checkpoints, ignore_errors=True)  # all that they led to is finished
    reporter.finish("succeeded")
    print("done: " + ", ".join(f"{key} {value}" for key, value in reporter.status.result.items()
                               if isinstance(value, str)))
    return EXIT_OK


def _phases(kind: str, values: dict[str, Any]) -> dict[str, float]:
    phases = dict(PHASES.get(kind, {}))  # a kind that does not exist is refused where specs are parsed
    if kind == "train" and values.get("index") is False:
        del phases["index"]
    return phases


# ---- the three kinds of run


def _train(spec: TrainSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    info = find_model(spec.model)
    check_layer(info, spec.layer, spec.context_length)
    sae_id = _choose_id(spec, info.id, folder, workspace)
    lm, corpus = _open(spec.model, spec.device, spec.text, spec.text_column, spec.text_split, spec.context_length,
                       workspace, reporter)
    from sae.autoencoder import Autoencoder

    if (workspace.sae(sae_id) / "sae.json").exists():  # finished by an earlier process of this run
        sae = Autoencoder.load(workspace.sae(sae_id), lm.device)
    else:
        sae = _train_sae(spec, sae_id, lm, corpus, folder, reporter)
        sae.save(workspace.sae(sae_id))
    result: dict[str, Any] = {"sae": sae_id, "metrics": sae.config["metrics"]}
    reporter.status.result = result
    if spec.index:
        result["build"] = _build(spec, sae, lm, corpus, folder, workspace, reporter)
    return result


def _index(spec: IndexSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    from sae.autoencoder import Autoencoder, read_config

    config = read_config(workspace.sae(spec.sae))
    text, column, split = _text_of(config, spec.text, spec.text_column, spec.text_split)
    lm, corpus = _open(config["model"]["name"], spec.device, text, column, split, config["context_length"],
                       workspace, reporter)
    sae = Autoencoder.load(workspace.sae(spec.sae), lm.device)
    return {"sae": spec.sae, "build": _build(spec, sae, lm, corpus, folder, workspace, reporter)}


def _evaluate(spec: EvaluateSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    from sae.autoencoder import Autoencoder, read_config
    from sae.evaluate import evaluate

    config = read_config(workspace.sae(spec.sae))
    lm, corpus = _open(config["model"]["name"], spec.device, *_text_of(config, "", "text", "train"),
                       config["context_length"], workspace, reporter)
    sae = Autoencoder.load(workspace.sae(spec.sae), lm.device)
    reporter.begin("evaluation")
    metrics = evaluate(lm, sae, corpus, spec.eval_tokens, spec.ce_tokens, reporter.update)
    reporter.row(**metrics)
    sae.config["metrics"] = metrics
    sae.save(workspace.sae(spec.sae))
    return {"sae": spec.sae, "metrics": metrics}


# ---- their steps


def _open(
    model: str, device: str, text: str, column: str, split: str, context_length: int, workspace: Workspace,
    reporter: Reporter,
) -> tuple[LanguageModel, Corpus]:
    """The language model and the tokenised text."""
    reporter.begin("text", unit="documents", message=f"loading {model}")
    from sae.corpus import prepare
    from sae.lm import LanguageModel

    lm = LanguageModel.load(model, device)
    reporter.update(0, message=f"tokenising {text}")

    def stop() -> bool:
        reporter.check()
        return False

    corpus = prepare(text, column, split, lm, context_length, workspace,
                     lambda done, total: reporter.update(done, total), stop)
    return lm, corpus


def _train_sae(
    spec: TrainSpec, sae_id: str, lm: LanguageModel, corpus: Corpus, folder: RunFolder, reporter: Reporter
) -> Autoencoder:
    from sae.activations import ActivationStream
    from sae.evaluate import calibrate_and_evaluate, held_out_contexts
    from sae.train import artefact, train

    held_out_contexts(corpus, spec.eval_tokens)  # too little text is refused before the training, not after
    reporter.begin("training", spec.tokens, message="reading the first activations")
    stream = ActivationStream(
        lm, corpus, resid_post(spec.layer), spec.batch_tokens, spec.buffer_tokens, spec.reuse, spec.train_on_bos,
        spec.seed,
        check=lambda: reporter.update(reporter.status.done))  # a sign of life from the language model, too
    trained = train(
        spec, stream, lm.device, checkpoint=folder.checkpoints / "train.pt",
        update=lambda tokens: reporter.update(tokens, message=""), row=reporter.row,
        lm_seconds=lambda: stream.timing.seconds)
    sae = artefact(trained, _config(spec, sae_id, lm, corpus, folder, trained.seconds))
    if sae.sparsity.threshold is not None:
        sae.config["threshold"] = {"trained": sae.sparsity.threshold, "trained_batches": list(trained.theta_batches)}
    reporter.begin("evaluation")
    calibrate_and_evaluate(lm, sae, corpus, spec.eval_tokens, spec.ce_tokens, reporter.update)
    reporter.row(**sae.config["metrics"])
    return sae


def _config(
    spec: TrainSpec, sae_id: str, lm: LanguageModel, corpus: Corpus, folder: RunFolder, seconds: float
) -> dict[str, Any]:
    """The `sae.json` of a fresh SAE, metrics still to come."""
    return {
        "schema_version": 1, "id": sae_id, "model": {"name": spec.model, "id": lm.info.id},
        "site": {"layer": spec.layer, "hook": resid_post(spec.layer)}, "architecture": spec.architecture,
        "n_latents": spec.n_latents, "d_model": lm.info.d_model, "k": spec.k, "normalize": spec.normalize,
        "weight_processing": "raw", "bos": {"prepended": True, "trained_on": spec.train_on_bos},
        "context_length": spec.context_length, "threshold": None, "metrics": {},
        "training": {**spec.model_dump(), "text_fingerprint": corpus.info["fingerprint"], "corpus": corpus.id,
                     "seconds": seconds, "tokens_per_s": spec.tokens / seconds},
        "run": folder.id, "created": time.time(), "saescope_version": __version__,
    }


def _build(
    settings: IndexSettings, sae: Autoencoder, lm: LanguageModel, corpus: Corpus, folder: RunFolder,
    workspace: Workspace, reporter: Reporter,
) -> str:
    """Make the build of this run, or find the one that an earlier process finished; its id."""
    from sae.index.build import build

    sae_id = sae.config["id"]
    # Its run's time and letters, or whatever a folder made by hand is called: a resumed run finds its own build.
    build_id = slug(folder.id.partition("-")[2] or folder.id)
    path = workspace.build(sae_id, build_id)
    if not path.exists():
        reporter.begin("index", settings.index_tokens)
        asked = IndexSpec if isinstance(settings, IndexSpec) else IndexSettings  # a training run asks for less
        command = command_line("index", {"sae": sae_id, **settings.model_dump(include=set(asked.model_fields))})
        build(lm, sae, corpus, settings, path, provenance={"run": folder.id, "command": command},
              checkpoint=folder.checkpoints / "index.pt", update=reporter.update)
    return build_id


def _choose_id(spec: TrainSpec, model_id: str, folder: RunFolder, workspace: Workspace) -> str:
    """`<model>/<name>`; chosen once per run, so that a resumed run goes on with the same name,
    unless another run has finished an SAE of that name meanwhile."""
    note = folder.path / "sae_id.txt"
    if note.exists():
        sae_id = note.read_text(encoding="utf-8").strip()
        if _maker(sae_id, workspace) in (None, folder.id):
            return sae_id
    if spec.name:
        name = check_name(spec.name)
        if (workspace.sae(f"{model_id}/{name}") / "sae.json").exists():
            raise UserError(f"name: there is an SAE {model_id}/{name} already; choose another name", "name")
    else:
        name = free_name(default_name(spec), model_id, workspace)
    note.write_text(f"{model_id}/{name}", encoding="utf-8")
    return f"{model_id}/{name}"


def _maker(sae_id: str, workspace: Workspace) -> str | None:
    """The run that made an SAE, or None where there is no such SAE."""
    from sae.autoencoder import read_config

    folder = workspace.sae(sae_id)
    return str(read_config(folder).get("run")) if (folder / "sae.json").exists() else None


def default_name(spec: TrainSpec) -> str:
    """Layer, site, architecture and size, e.g. `2-res-batchtopk-4k`."""
    size = f"{spec.n_latents // 1024}k" if spec.n_latents % 1024 == 0 else str(spec.n_latents)
    return f"{spec.layer}-res-{spec.architecture.replace('_', '')}-{size}"


def free_name(name: str, model_id: str, workspace: Workspace) -> str:
    """`name`, or the first of `name-2`, `name-3`, … that no SAE of the model has."""
    number, free = 1, name
    while (workspace.sae(f"{model_id}/{free}") / "sae.json").exists():
        number += 1
        free = f"{name}-{number}"
    return free


def _text_of(config: dict[str, Any], text: str, column: str, split: str) -> tuple[str, str, str]:
    """The text asked for, or else the one that the SAE was trained on."""
    if text:
        return text, column, split
    training = config["training"]
    return training["text"], training["text_column"], training["text_split"]


def start(kind: str, values: dict[str, Any], workspace: Workspace) -> RunFolder:
    """Make a new run folder for a checked spec.  Raises UserError."""
    spec = located(parse_spec(kind, values))
    if isinstance(spec, TrainSpec):
        check_layer(find_model(spec.model), spec.layer, spec.context_length)
    folder = RunFolder(workspace.run(new_id(kind)))
    folder.create(kind, spec.model_dump())  # type: ignore[arg-type]
    return folder


def folder_of(path: Path) -> tuple[RunFolder, Workspace]:
    """The run folder at `path`, and the workspace it belongs to.  Raises UserError."""
    path = path.resolve()
    if path.name == "spec.json":
        path = path.parent
    if not (path / "spec.json").exists():
        raise UserError(f"run: there is no spec.json in {path}", "run")
    inside = path.parent.name == "runs"
    return RunFolder(path), Workspace(path.parent.parent) if inside else Workspace.from_environment()
