"""The measures by name.  This module imports no torch: a measure's module is imported when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae.evaluation.measure import Measure


@dataclass(frozen=True)
class Entry:
    """A measure that runs can make."""

    module: str
    class_name: str
    title: str  # heading of its values on a page
    about: str  # one sentence
    seconds: float  # time for the demo's SAE on two cores, which gives its share of a run's progress and its estimate
    anchored: bool = False  # whether a random dictionary is measured next to the SAE
    sizes: Mapping[str, str] = field(default_factory=dict)  # argument of the class -> setting of the run


ENTRIES: dict[str, Entry] = {
    "core": Entry(
        "sae.evaluation.core", "Core", "Reconstruction, sparsity and the model's loss",
        "Numbers that need only held-out text: error of the reconstruction, active latents, loss with the SAE.",
        30, anchored=True, sizes={"n_tokens": "eval_tokens", "ce_tokens": "ce_tokens"}),
    "probing": Entry(
        "sae.evaluation.probing", "Probing", "Probes",
        "Known properties of texts and tokens, read from one latent or from a few.", 40, anchored=True),
    "concepts": Entry(
        "sae.evaluation.concepts", "Concepts", "Concepts",
        "Labelled tokens, matched with the latent whose firings agree best; chosen on one half, scored on the other.",
        40, anchored=True),
    "n2g": Entry(
        "sae.evaluation.n2g", "N2G", "N2G patterns",
        "Token patterns found from top contexts, which predict where a latent fires.", 30),
    "ablation": Entry(
        "sae.evaluation.ablation", "Ablation", "Effects of ablation",
        "The share of next-token logits that the ablation of a latent changes.", 10),
    "recovery": Entry(
        "sae.evaluation.recovery_curves", "Recovery", "Recovery with other numbers of latents",
        "The error when a token may use more or fewer latents than in training.", 16, anchored=True),
    "stability": Entry(
        "sae.evaluation.stability", "Stability", "Stability between seeds",
        "The share of directions that an SAE of another seed has, too.", 5),
    "splitting": Entry(
        "sae.evaluation.splitting", "Splitting", "Splitting between sizes",
        "What becomes of latents in an SAE with more of them.", 5),
    "absorption": Entry(
        "sae.evaluation.absorption", "Absorption", "Feature absorption",
        "The share of first-letter cases in which another latent hides the letter's own.", 8),
    "meta_sae": Entry(
        "sae.evaluation.meta_sae", "MetaSae", "Shared structure of the decoder",
        "The variance of decoder directions that a small SAE of them explains.", 25),
    "explained": Entry(
        "sae.evaluation.explained", "Explained", "Explained latents",
        "The share of latents that an explanation by a rule, a person or a model explains.", 1),
}


def load_measure(name: str, settings: Mapping[str, Any]) -> tuple[Measure, Mapping[str, str]]:
    """Return the measure in the sizes that a run's settings give, and the definition of each of its keys.

    Raises KeyError for an unknown name.
    """
    entry = ENTRIES[name]
    module = import_module(entry.module)
    sizes = {argument: settings[setting] for argument, setting in entry.sizes.items()}
    measure: Measure = getattr(module, entry.class_name)(**sizes)
    return measure, getattr(module, "DEFINITIONS", {})
