"""A subject of measures on the toy model, with other SAEs next to it in a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from sae.autoencoder.artefact import Autoencoder
from sae.evaluation.measure import Subject
from sae.lm.bridge import LanguageModel
from tests.toys import ToyModel, toy_corpus, toy_sae


def subject_of(root: Path, sae: Autoencoder, build: bool = True) -> Subject:
    """Return the subject; its index need not exist."""
    corpus = toy_corpus()
    return Subject(sae, cast(LanguageModel, ToyModel()), corpus, np.arange(corpus.n_contexts), 0,
                   root / "builds" / "toy" / "sae" / "x.duckdb" if build else None)


def saved(root: Path, folder: str, sae: Autoencoder, **training: Any) -> Autoencoder:
    """Save an SAE under a name with settings of training, and return it."""
    sae.config |= {"id": f"toy/{folder}", "training": {"tokens": 5, "seed": 0, **training}}
    sae.save(root / "saes" / "toy" / folder)
    return sae


def toy(n_latents: int = 24, seed: int = 0) -> Autoencoder:
    """Return a random SAE whose latents fire on the toy corpus."""
    return toy_sae("batch_topk", n_latents=n_latents, seed=seed, threshold=1.0)
