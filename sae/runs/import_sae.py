"""The import run: fetch ▸ read ▸ check on real activations ▸ publish ▸ index.

Nothing appears among the SAEs until the check has passed: the artefact is written to the run's
`ckpt` folder and then renamed.  An interrupted import starts from the beginning.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae.errors import UserError
from sae.formats.dashboards.import_dashboard import import_dashboard, kind_of
from sae.formats.detect import find
from sae.formats.fetch import fetch, hub_name
from sae.formats.foreign import Foreign
from sae.lm.model_info import find_model
from sae.lm.sites import KINDS, check_site, parse_site, split_head
from sae.runs.folder import RunFolder
from sae.runs.names import owner
from sae.runs.progress import Reporter
from sae.runs.steps import reading_of
from sae.specs.imports import ImportSpec
from sae.workspace.paths import Workspace, check_name

if TYPE_CHECKING:
    from sae.autoencoder.artefact import Autoencoder
    from sae.data.corpus import Corpus
    from sae.lm.bridge import LanguageModel

PHASES = {"source": 5.0, "text": 10, "check": 10, "index": 75}
_NOTE = "sae_id.txt"  # in the run's folder: the id of the SAE that it made or is about to publish
_OF_WEIGHTS = ("out_hook", "bos", "context_length", "architecture", "k", "threshold", "subtract_b_dec", "normalize",
               "input_scale", "force")
UPLOAD = "upload"  # the subfolder of the run's folder that holds uploaded files

Open = Callable[..., "tuple[LanguageModel, Corpus]"]  # sae.runs.steps.open_model_and_text
Build = Callable[..., str]  # sae.runs.steps.build_index


def look(spec: ImportSpec, workspace: Workspace) -> Foreign | None:
    """Read a local source before the run exists, so that the user hears at once what is missing or wrong.

    Returns None for a source that would first have to be fetched or unpacked.  Raises UserError, MissingFacts.
    """
    path = Path(spec.source).expanduser()
    if not path.exists():
        hub_name(spec.source)
        return None
    if path.suffix.lower() == ".zip" or kind_of(path):
        return None
    from sae.formats.readers.registry import demand, read

    foreign = read(path, spec.model_dump(), str(path.resolve()))
    demand(foreign)
    _check_place(spec, foreign, workspace)
    return foreign


def import_sae(
    spec: ImportSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter, open_: Open, build: Build
) -> dict[str, Any]:
    """Execute an import and return the run's result.  Raises UserError for a source that cannot be imported."""
    from sae.autoencoder.artefact import Autoencoder

    note = folder.path / _NOTE
    finished = note.read_text(encoding="utf-8").strip() if note.exists() else ""
    if finished and _made_by(finished, folder, workspace):  # an earlier process of this run published it
        sae = Autoencoder.load(workspace.sae(finished))
        lm, corpus = open_(sae.config["model"]["name"], *_text(spec), sae.config["context_length"], workspace, reporter,
                           text_tokens=spec.text_tokens, **reading_of(sae.config))
        sae = sae.to(lm.device)
    else:
        shutil.rmtree(folder.checkpoints, ignore_errors=True)  # a killed process may have left files
        try:
            reporter.begin("source", unit="files", message=f"reading {spec.source}")
            path, hint = fetch(spec.source, folder.checkpoints, lambda text: reporter.update(0, message=text))
            if kind_of(path):
                return _dashboard(spec, path, folder, workspace, reporter)
            sae, lm, corpus = _imported(spec, path, hint, folder, workspace, reporter, open_)
        finally:  # unpacked and staged files go, whether the import succeeded or not
            shutil.rmtree(folder.checkpoints, ignore_errors=True)
    sae_id = sae.config["id"]
    result: dict[str, Any] = {"sae": sae_id, "metrics": sae.config["metrics"]}
    reporter.status.result = result
    if spec.index:
        result["build"] = build(spec, sae, lm, corpus, folder, workspace, reporter)
    return result


def _dashboard(
    spec: ImportSpec, path: Path, folder: RunFolder, workspace: Workspace, reporter: Reporter
) -> dict[str, Any]:
    """Import a dashboard computed elsewhere as a build.  It has no weights, so there is nothing to check.

    Raises UserError for a setting that only an SAE with weights can use.
    """
    for field in _OF_WEIGHTS:
        if getattr(spec, field):
            raise UserError(f"{field}: is for an SAE with weights, but {spec.source} is a dashboard; leave the setting "
                            "out", field)
    sae_id, build_id = import_dashboard(
        path, workspace, name=spec.name, model=spec.model, hook=spec.hook,
        update=lambda done, total: reporter.update(done, total))
    _forget_upload(spec, workspace)
    return {"sae": sae_id, "build": build_id}


def _imported(
    spec: ImportSpec, path: Path, hint: str, folder: RunFolder, workspace: Workspace, reporter: Reporter, open_: Open
) -> tuple[Autoencoder, LanguageModel, Corpus]:
    """Read, check and publish the SAE; return it with the language model and text used for the check."""
    from sae.formats.readers.registry import demand, read

    foreign = read(path, spec.model_dump(), hint)
    print(f"{foreign.format}: {find(path).weights.name}, stored as {foreign.dtype}", flush=True)
    demand(foreign)
    sae_id = _check_place(spec, foreign, workspace)
    length = min(foreign.context_length or 128, find_model(foreign.model).n_ctx)
    foreign.context_length = max(length, 8)
    hooks = [hook for hook in (foreign.hook, foreign.out_hook) if hook]
    lm, corpus = open_(foreign.model, *_text(spec), foreign.context_length, workspace, reporter, hooks,
                       text_tokens=spec.text_tokens, bos=bool(foreign.bos), markup=spec.markup)
    sae = _checked(spec, foreign, sae_id, lm, corpus, reporter)
    sae.config["run"] = folder.id
    (folder.path / _NOTE).write_text(sae_id, encoding="utf-8")
    _publish(sae, folder.checkpoints / "sae", workspace)
    _forget_upload(spec, workspace)
    return sae, lm, corpus


def _forget_upload(spec: ImportSpec, workspace: Workspace) -> None:
    """Remove the uploaded files, which are in a run's folder, once they are imported."""
    path = Path(spec.source)
    if path.name == UPLOAD and path.parent.parent == workspace.root / "runs":
        shutil.rmtree(path, ignore_errors=True)


def _text(spec: ImportSpec) -> tuple[str, str, str, str]:
    return spec.device, spec.text, spec.text_column, spec.text_split


def _check_place(spec: ImportSpec, foreign: Foreign, workspace: Workspace) -> str:
    """Return the SAE's id.  Raises UserError if the model has no such site or the name is taken."""
    try:
        info = find_model(foreign.model)
    except UserError as error:
        if spec.model:
            raise
        raise UserError(
            f"model: the file names {foreign.model}, which is not available here; name the model it was trained on "
            f"({error})", "model") from None
    if spec.context_length and not 8 <= spec.context_length <= info.n_ctx:
        raise UserError(f"context_length: {spec.context_length} is not between 8 and {info.n_ctx}, the most tokens "
                        f"that {info.name} reads", "context_length")
    for hook in filter(None, (foreign.hook, foreign.out_hook)):
        check_site(info, hook, "hook" if hook == foreign.hook else "out_hook")
    if spec.name:
        sae_id = f"{info.id}/{check_name(spec.name)}"
        if _taken(sae_id, workspace):
            raise _name_taken(sae_id)
        return sae_id
    names = (f"{info.id}/{default_name(foreign)}" + (f"-{number}" if number > 1 else "") for number in count(1))
    return next(sae_id for sae_id in names if not _taken(sae_id, workspace))


def _taken(sae_id: str, workspace: Workspace) -> bool:
    """Return whether the SAE exists or a run that has not ended has claimed its name (see `sae.runs.names`)."""
    return owner(sae_id, workspace) is not None


def _name_taken(sae_id: str) -> UserError:
    return UserError(f"name: the SAE {sae_id} already exists, or a run is making it; choose another name", "name")


def default_name(foreign: Foreign) -> str:
    """Return a name made of layer, site, architecture and size, e.g. `12-res-jumprelu-16k`."""
    L = len(foreign.weights.b_enc_L)
    layer, kind = parse_site(foreign.hook)
    head = split_head(foreign.hook)[1]
    size = f"{L // 1024}k" if L % 1024 == 0 else str(L)
    site = KINDS[kind] + (f"_h{head}" if head >= 0 else "")
    return f"{layer}-{site}-{foreign.weights.architecture.replace('_', '')}-{size}"


def _checked(
    spec: ImportSpec, foreign: Foreign, sae_id: str, lm: LanguageModel, corpus: Corpus, reporter: Reporter
) -> Autoencoder:
    """Convert the SAE and measure it.  Raises UserError (field `source`) if it does not reconstruct."""
    from sae.evaluation.metrics import calibrate_threshold
    from sae.formats.readers.registry import convert
    from sae.runs.import_check import measure, reconstructs, sample

    reporter.begin("check", spec.check_tokens, message="reading activations")
    at = sample(lm, corpus, foreign.hook, foreign.out_hook, spec.check_tokens, reporter.update)
    sae = convert(foreign, sae_id).to(lm.device)
    measured = measure(sae, at)
    if foreign.calibrate and sae.sparsity.threshold is not None:
        sae.sparsity.threshold = calibrate_threshold(sae, [at.x_ND], sae.k)
        measured = measure(sae, at)
        sae.config["threshold"] |= {"calibrated": sae.sparsity.threshold, "calibration_tokens": measured["tokens"],
                                    "l0_calibrated": measured["l0"]}
    _print_measured(foreign, measured)
    if not reconstructs(measured) and not spec.force:
        raise UserError(_refusal(foreign, measured, at, lm, corpus), "source")
    kept = {name: value for name, value in measured.items() if math.isfinite(value)}
    reporter.row(**kept)
    sae.config["metrics"] = kept
    if spec.markup:
        sae.config["markup"] = True
    uploaded = Path(spec.source).name == UPLOAD
    sae.config["imported"] |= {
        "source": f"upload of {', '.join(foreign.files)}" if uploaded else spec.source,
        "measured": kept, "forced": spec.force and not reconstructs(measured), "text": spec.text,
        "text_column": spec.text_column, "text_split": spec.text_split, "text_tokens": spec.text_tokens,
        "corpus": corpus.id}
    return sae


def _print_measured(foreign: Foreign, measured: dict[str, Any]) -> None:
    print(f"FVU {measured['fvu']:.4f}, L0 {measured['l0']:.2f}, mean activation {measured['mean_activation']:.4f} on "
          f"{measured['tokens']:,} tokens", flush=True)
    if foreign.claims:
        claims = ", ".join(f"{name} {value:.4g}" for name, value in foreign.claims.items())
        print(f"the file claims {claims}", flush=True)
    for note in foreign.notes:
        print(f"note: {note}", flush=True)


def _refusal(foreign: Foreign, measured: dict[str, Any], at: Any, lm: LanguageModel, corpus: Corpus) -> str:
    from sae.runs.import_check import MAX_FVU, table

    rows = table(foreign, at, lm, corpus)
    for fvu, option in rows:
        print(f"  FVU {fvu:10.4f} with {option}")
    better = f"; with {rows[0][1]} it would be {rows[0][0]:.3f}" if rows and rows[0][0] < MAX_FVU else ""
    return (f"source: FVU {measured['fvu']:.3f} at L0 {measured['l0']:.1f}, on {measured['tokens']:,} tokens: this SAE "
            f"does not reconstruct {foreign.out_hook or foreign.hook} of {foreign.model}{better}; --force imports it "
            "anyway")


def _made_by(sae_id: str, folder: RunFolder, workspace: Workspace) -> bool:
    from sae.autoencoder.config import read_config

    path = workspace.sae(sae_id)
    return (path / "sae.json").exists() and read_config(path).get("run") == folder.id


def _publish(sae: Autoencoder, staged: Path, workspace: Workspace) -> None:
    """Write the artefact to `staged` and rename it to its place, replacing what a killed process left there."""
    sae.save(staged)
    target = workspace.sae(sae.config["id"])
    if target.exists() and owner(sae.config["id"], workspace) is None:
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(staged, target)
    except OSError:
        raise _name_taken(sae.config["id"]) from None
