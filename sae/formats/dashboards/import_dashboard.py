"""Import of a dashboard of another program as a build, which can be browsed without model and weights.  No torch.

A reader (`neuronpedia.py`, `saedashboard.py`) yields the records of a file.  They become a build, and an
SAE entry marked as having no weights.  Facts that the file does not state stay null.  Tokens are text in
these files, so they get ids in the order of their first appearance.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sae import __version__
from sae.errors import UserError
from sae.formats.dashboards import neuronpedia, saedashboard
from sae.formats.dashboards.records import Dashboard
from sae.formats.dashboards.staging import Staging
from sae.store.schema import SCHEMA_VERSION
from sae.store.writer import write_build
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace, check_name, new_id, slug


def kind_of(path: Path) -> str | None:
    """Return the kind of dashboard at a path, by file names alone: "neuronpedia", "saedashboard" or None."""
    if neuronpedia.root_of(path) is not None:
        return "neuronpedia"
    return "saedashboard" if saedashboard.files_of(path) else None


def open_dashboard(path: Path) -> Dashboard:
    """Open the dashboard at `path` and read its header.  Raises UserError (field `source`)."""
    kind = kind_of(path)
    if kind is None:
        raise UserError(f"source: {path} holds neither a Neuronpedia export nor SAEDashboard batches", "source")
    return neuronpedia.open_dashboard(path) if kind == "neuronpedia" else saedashboard.open_dashboard(path)


def import_dashboard(
    path: Path, workspace: Workspace, *, name: str = "", model: str = "", hook: str = "",
    update: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[str, str]:
    """Make a build and an SAE entry without weights from the dashboard at `path`.

    Returns the ids of the SAE and the build.  `update(bytes read, bytes in total)` may raise to stop, and nothing is
    left behind then.  Raises UserError (field `source`, `model` or `name`).
    """
    started = time.time()
    dashboard = open_dashboard(path)
    hook = hook or dashboard.hook
    model_id = check_name(slug(model.rpartition("/")[2] or dashboard.model), "model")
    sae_id = f"{model_id}/{check_name(slug(name or dashboard.name), 'name')}"
    if (workspace.sae(sae_id) / "sae.json").exists():
        raise UserError(f"name: an SAE {sae_id} already exists; give another name", "name")
    build_id = new_id("import")
    target = workspace.build(sae_id, build_id)
    folder = target.with_name(f".{build_id}.{os.getpid()}.staging")
    done = 0

    def read(n: int) -> None:
        nonlocal done
        done += n
        update(done, dashboard.n_bytes)

    try:
        folder.mkdir(parents=True)
        with Staging(folder, dashboard) as staging:
            for record in dashboard.records(read):
                staging.add(record)
            tables, facts = staging.tables()
            n_latents = dashboard.n_latents or facts.pop("n_latents")
            site = {"layer": dashboard.layer, "hook": hook}
            origin = {"format": dashboard.format, "source": path.name, "model": dashboard.model,
                      "name": dashboard.name, "imported_by": f"saescope {__version__}"}
            command = f"saescope import {path.name}"
            meta = _meta(dashboard) | facts | {
                "schema_version": SCHEMA_VERSION, "build_id": build_id, "sae_id": sae_id, "n_latents": n_latents,
                "model": {"name": model or dashboard.model, "id": model_id}, "site": site, "imported": origin,
                "created": started, "seconds": time.time() - started, "saescope_version": __version__,
                "command": command}
            write_build(target, tables, meta, spill=folder)
        write_json(workspace.sae(sae_id) / "sae.json", {
            "schema_version": 1, "id": sae_id, "model": meta["model"], "site": site, "weights": "none",
            "architecture": meta["architecture"], "n_latents": n_latents, "d_model": None, "k": meta["k"],
            "normalize": meta["normalize"], "weight_processing": None, "context_length": meta["context_length"],
            "threshold": None, "metrics": {}, "training": {}, "imported": origin, "created": started,
            "saescope_version": __version__})
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(target.parent, workspace.root)
    return sae_id, build_id


def _meta(dashboard: Dashboard) -> dict[str, Any]:
    """Return the build's `meta`, with null for facts that the file does not state."""
    own = dashboard.own or {}
    tokens = own.get("tokens")
    if tokens is None and dashboard.n_prompts and dashboard.context_length:
        tokens = dashboard.n_prompts * dashboard.context_length
    kept = ("k", "theta", "normalize", "train_on_bos", "weight_processing", "decoder_norm", "text_fingerprint",
            "documents", "bands", "settings")
    return {name: own.get(name) for name in kept} | {
        "architecture": own.get("architecture") or "unknown", "d_model": None, "text": dashboard.dataset,
        "tokens": tokens, "contexts": dashboard.n_prompts, "context_length": dashboard.context_length,
        "bos_rule": own.get("bos_rule") or "the file does not say whether BOS was counted", "corpus": None,
        "bos_l0": None, "bos_token": None, "median_resid_norm": None, "hist_low": None, "hist_edges": None,
        "logit_edges": None, "own": bool(own),
        "bands": own.get("bands") or [
            {"band": b, "name": f"interval {b}", "q_low": None, "q_high": None} for b in range(1, 11)]}


def _remove_empty(folder: Path, root: Path) -> None:
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent

