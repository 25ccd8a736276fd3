"""Other SAEs of the same site in the same workspace, for measures that compare SAEs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sae.autoencoder.artefact import Autoencoder
from sae.autoencoder.config import read_config
from sae.errors import UserError
from sae.evaluation.measure import Progress, Subject
from sae.evaluation.metrics import counted_rows, counted_tokens, left_out_of, read_and_target, sites

# Settings of a training that do not make another kind of SAE.
_INCIDENTAL = ("seed", "name", "device", "index", "eval_tokens", "ce_tokens", "index_tokens", "top_contexts",
               "band_contexts", "near_misses", "map", "tokens_per_s", "seconds", "saes_trained_together", "corpus")


def same_site(subject: Subject) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Yield id, folder and configuration of the other SAEs of the subject's model and site.

    They are found from the place of the subject's index (`builds/<model>/<sae>/` next to `saes/`).
    """
    own = subject.sae.config
    if subject.build is None:
        return
    for folder in sorted((subject.build.parents[3] / "saes" / subject.build.parents[1].name).glob("*/sae.json")):
        try:
            config = read_config(folder.parent)
        except UserError:
            continue
        alike = all(config.get(name) == own.get(name) for name in ("site", "d_model"))
        if alike and config.get("id") != own.get("id") and config.get("weights") != "none":
            yield str(config.get("id")), folder.parent, config


def of_other_seeds(subject: Subject) -> list[tuple[str, Path]]:
    """Return the SAEs whose training differs from the subject's in the seed alone."""
    own = subject.sae.config
    mine = _settings(own)
    if not mine:
        return []
    return [(name, folder) for name, folder, config in same_site(subject)
            if all(config.get(key) == own.get(key) for key in ("architecture", "n_latents", "k"))
            and _settings(config) == mine
            and config["training"].get("seed") != own["training"].get("seed")]


def of_other_sizes(subject: Subject) -> list[tuple[str, Path, int]]:
    """Return the SAEs of the same architecture and sparsity with another number of latents, smallest first."""
    own = subject.sae.config
    found = [(name, folder, int(config["n_latents"])) for name, folder, config in same_site(subject)
             if config.get("architecture") == own["architecture"] and config.get("k") == own.get("k")
             and config.get("n_latents") != own.get("n_latents")]
    return sorted(found, key=lambda one: one[2])


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    training = config.get("training") or {}
    return {name: value for name, value in training.items() if name not in _INCIDENTAL}


def load(folder: Path, subject: Subject) -> Autoencoder:
    """Read a sibling onto the subject's device.  Raises UserError (field `sae`) if it cannot be read."""
    return Autoencoder.load(folder, subject.sae.device)


def alive_of(subject: Subject, saes: list[Autoencoder], progress: Progress) -> list[torch.Tensor]:
    """Return which latents of each SAE fire on the subject's contexts, from one pass over them: [L] each."""
    fired = [torch.zeros(sae.n_latents, dtype=torch.bool, device=sae.device) for sae in saes]
    rows = counted_rows(subject.model, subject.corpus, subject.contexts, sites(subject.sae), progress,
                        left_out_of(subject.sae))
    for rows_NW in rows:
        for sae, fired_L in zip(saes, fired, strict=True):
            fired_L[sae.codes(read_and_target(sae, rows_NW)[0]).latent_N] = True
    progress(total := counted_tokens(subject.corpus, subject.contexts), total)
    return fired
