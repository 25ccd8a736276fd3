"""The training and the measurement of a grid, one seed after another, on the machinery of sweeps.

All cells of a seed are trained together on one stream of activations, with a checkpoint, and are then measured on
held-out text.  The rows of a finished seed are a file, so a command that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae import __version__
from sae.autoencoder.architectures import REGISTRY
from sae.autoencoder.artefact import Autoencoder
from sae.data.activations import ActivationStream
from sae.data.corpus import Corpus, prepare
from sae.errors import UserError
from sae.evaluation.metrics import calibrate_and_evaluate, held_out_contexts, residuals
from sae.evaluation.recovery import progressive_recovery, refine
from sae.lm.bridge import LanguageModel
from sae.lm.conformance.opening import open_model
from sae.lm.model_info import check_layer, find_model
from sae.reproduce.setup import Cell, Setup
from sae.training.loop import Trained, artefact, train_all
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace

Report = Callable[[str, int, int], None]  # called with the phase, work done and work in total; may raise to stop
_HISTOGRAM_TOKENS = 20_000  # held-out tokens of the histogram of L0 and of progressive recovery
_REFINED_TOKENS = 2_000  # held-out tokens of the refinement
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def measured(
    setup: Setup, cells: Sequence[Cell], folder: Path, workspace: Workspace, report: Report
) -> list[dict[str, Any]]:
    """Return a row of figures for every cell and seed, of which finished seeds are read from `folder`.

    Raises UserError (field `out`) if the folder holds another grid.
    """
    _claim(setup, cells, folder)
    rows: list[dict[str, Any]] = []
    bench: _Bench | None = None
    for seed in range(setup.seeds):
        path = folder / f"seed-{seed}.json"
        if not path.exists():
            bench = bench or _Bench(setup, workspace, report)
            write_json(path, bench.rows(cells, seed, folder / f"seed-{seed}.pt"))
        for checkpoint in folder.glob(f"seed-{seed}.pt*"):
            checkpoint.unlink()
        rows += json.loads(path.read_text(encoding="utf-8"))
    return rows


def _claim(setup: Setup, cells: Sequence[Cell], folder: Path) -> None:
    """Write the grid's settings into a new folder, or check that an old one holds the same grid."""
    # More seeds only add to a grid, and the device does not change it.
    settings = setup.model_dump(mode="json", exclude={"seeds", "device"})
    wanted = {"setup": settings, "cells": [cell.model_dump(mode="json") for cell in cells]}
    path = folder / "grid.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != wanted:
        raise UserError(f"out: {folder} holds the results of other settings; give another folder", "out")
    write_json(path, wanted)


class _Bench:
    """The language model and the text, with the training and measurement of one seed at a time."""

    def __init__(self, setup: Setup, workspace: Workspace, report: Report) -> None:
        self.setup, self.report = setup, report
        check_layer(find_model(setup.model), setup.layer, setup.context_length)
        report("text", 0, 0)
        self.lm: LanguageModel = open_model(setup.model, setup.device, workspace)
        self.corpus: Corpus = prepare(setup.text, "text", "train", self.lm, setup.context_length, workspace,
                                      lambda done, total: report("text", done, total),
                                      max_tokens=setup.text_tokens or None)
        held_out_contexts(self.corpus, setup.eval_tokens)  # refuses too little text before the training

    def rows(self, cells: Sequence[Cell], seed: int, checkpoint: Path) -> list[dict[str, Any]]:
        """Train and measure all cells with one seed."""
        specs = [self.setup.spec(cell, seed) for cell in cells]
        first, started = specs[0], time.monotonic()
        stream = ActivationStream(
            self.lm, self.corpus, first.hook, first.batch_tokens, first.buffer_tokens, seed=seed,
            n_steps=first.tokens // first.batch_tokens)
        outcomes = train_all(specs, stream, self.lm.device, checkpoint=checkpoint,
                             update=lambda tokens: self.report(f"training, seed {seed}", tokens, first.tokens))
        trained = [self._artefact(spec, outcome) if isinstance(outcome, Trained) else None
                   for spec, outcome in zip(specs, outcomes, strict=True)]
        saes = [sae for sae in trained if sae is not None]
        calibrate_and_evaluate(self.lm, saes, self.corpus, first.eval_tokens, first.ce_tokens,
                               lambda done, total: self.report(f"evaluation, seed {seed}", done, total))
        x_ND, bos_1D = self._held_out(first.hook)
        rows = []
        for number, (cell, sae, outcome) in enumerate(zip(cells, trained, outcomes, strict=True)):
            self.report(f"figures, seed {seed}", number, len(cells))
            row = {"cell": cell.model_dump(), "kind": cell.kind, "seed": seed, "saescope_version": __version__}
            if sae is None:
                rows.append(row | {"error": str(outcome)})
                continue
            rows.append(row | {
                **sae.config["metrics"], "threshold": sae.config["threshold"], **_sparsity(sae, x_ND, bos_1D),
                **(_detail(sae, x_ND) if cell.detailed else {}), "seconds_of_seed": time.monotonic() - started})
        return rows

    def _artefact(self, spec: Any, trained: Trained) -> Autoencoder:
        sae = artefact(trained, {
            "architecture": spec.architecture, "n_latents": spec.n_latents, "normalize": spec.normalize,
            "k": spec.k if REGISTRY[spec.architecture].has_k else None, "threshold": None,
            "site": {"layer": spec.layer, "hook": spec.hook}})
        if sae.sparsity.threshold is not None:
            sae.config["threshold"] = {"trained": sae.sparsity.threshold}
        return sae

    def _held_out(self, hook: str) -> tuple[Tensor, Tensor]:
        """Return activations of held-out text that no θ was calibrated on, and the activation of BOS."""
        _, evaluation = held_out_contexts(self.corpus, min(self.setup.eval_tokens, _HISTOGRAM_TOKENS))
        x_ND = torch.cat(list(residuals(self.lm, self.corpus, evaluation, hook)))
        bos = torch.tensor([[self.lm.bos_id]], device=self.lm.device)
        return x_ND, self.lm.activations(bos, hook)[0]


def _sparsity(sae: Autoencoder, x_ND: Tensor, bos_1D: Tensor) -> dict[str, Any]:
    """Return the histogram of latents per token (index: L0), and the number of latents on BOS."""
    l0_N = torch.cat([sae.codes(part).l0_B() for part in sae.pieces(x_ND)]).cpu().numpy()
    return {"l0_histogram": np.bincount(l0_N).tolist(), "bos_l0": int(sae.codes(bos_1D).l0_B()[0])}


def _detail(sae: Autoencoder, x_ND: Tensor) -> dict[str, Any]:
    """Return refinement (Gao et al. 2024, figure 9) and progressive recovery (figure 10)."""
    refined = refine(sae, x_ND[:_REFINED_TOKENS], iterations=200)
    ks = [k for k in (2, 4, 8, 16, 32, 64, 128, 256, 512) if k <= sae.n_latents]
    return {
        "refinement": {
            "bias": refined.bias, "size": refined.size, "fvu_before": refined.fvu_before,
            "fvu_after": refined.fvu_after,
            "quantiles": dict(zip(map(str, _QUANTILES), refined.quantiles(_QUANTILES), strict=True))},
        "recovery": {rule: {str(k): fvu for k, fvu in progressive_recovery(sae, x_ND, ks, rule).items()}
                     for rule in ("topk", "threshold")}}
