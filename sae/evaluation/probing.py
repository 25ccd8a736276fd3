"""Probes for labelled tasks: the best single latent, the k best latents, and the raw activations.

    probe loss     for every latent a logistic probe on its pre-activation; the latent with the lowest loss on the
                   train examples is scored on the test examples (Gao et al. 2024, section 4.2)
    k-sparse       a logistic probe on the activations of the k latents whose means differ most between the classes,
                   in units of each latent's mean non-zero activation (Gurnee et al. 2023; ranking as in sae-probes)
    raw            the same probe on the activations of the language model, which no SAE has to beat

Shapes: N examples, L latents, D width, K latents of a k-sparse probe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.evaluation.intervals import mean_of
from sae.evaluation.logistic import auc, fit_best_logistic, fit_probes, weighted_f1
from sae.evaluation.measure import Progress, Result, Subject, Value
from sae.evaluation.probe_sets import are_probe_sets, list_sets
from sae.evaluation.probe_tasks import Examples, Task, examples_of_set, load_examples
from sae.evaluation.reading import stages

KS = (1, 2, 5, 16)
_SCORES = ("accuracy", "auc", "f1")
_RAW = "A probe on the language model's own activations: mean over tasks of its {} on test examples."
_SPARSE = "A probe on the {} latents whose means differ most between the classes: mean over tasks of its {}."
DEFINITIONS: dict[str, str] = {
    "probe_loss":
        "Cross-entropy in nats of a probe on the best single latent, which is chosen on the train examples: mean over "
        "tasks on test examples.",
    "probe_loss_train": "Cross-entropy in nats of these probes on the train examples.",
    "probe_loss_base": "Cross-entropy of guessing each task's share of positive examples, without any latent.",
    **{f"raw_{score}": _RAW.format("weighted F1" if score == "f1" else score) for score in _SCORES},
    **{f"sparse_{k}_{score}": _SPARSE.format(k, "weighted F1" if score == "f1" else score)
       for k in KS for score in _SCORES},
    "tasks": "Number of tasks that have enough examples.",
}
_CHUNK = 1 << 18  # entries of [examples, latents] that are probed at once, so that they stay in the cache
_FIRST_STEPS, _REFINED = 3, 64
_SET_TRAIN = 1_024  # train texts of a data set of sae-probes, as the package has it


@dataclass(frozen=True)
class Probing:
    """Probes for the tasks of a label file, for the data sets of sae-probes, or for Python's syntax."""

    n_train: int = 1_000
    n_test: int = 1_000
    n_tokens: int = 30_000  # of the held-out text, if the examples are tokens
    ks: tuple[int, ...] = KS
    name: str = "probing"

    def refuse(self, subject: Subject) -> str | None:
        if len(subject.contexts) < 2:
            return f"probing: {len(subject.contexts)} held-out contexts are too few; at least 2 are needed"
        return None

    def run(self, subject: Subject, progress: Progress) -> Result:
        table = sorted(self._rows(subject, progress), key=lambda row: row["probe_loss"])
        values = [mean_of(key, [row[key] for row in table])
                  for key in ("probe_loss", "probe_loss_train", "probe_loss_base")]
        values += [mean_of(f"raw_{score}", [row["raw"][score] for row in table], share=True) for score in _SCORES]
        values += [mean_of(f"sparse_{k}_{score}", [row["sparse"][str(k)][score] for row in table], share=True)
                   for k in self.ks for score in _SCORES]
        values.append(Value("tasks", len(table)))
        return Result(self.name, tuple(values), {"tasks": table, "ks": list(self.ks)})

    def _rows(self, subject: Subject, progress: Progress) -> Iterator[dict[str, Any]]:
        """Yield the scores of each task.  Data sets of sae-probes are read one at a time."""
        if are_probe_sets(subject.labels):
            assert subject.labels is not None
            sets = list_sets(subject.labels)
            for one, part in zip(sets, stages(progress, *[1.0] * len(sets)), strict=True):
                reading, probing = stages(part, 3, 1)
                examples = examples_of_set(subject, one, _SET_TRAIN, self.n_test, reading)
                yield probe(subject.sae, examples, examples.tasks[0], self.ks, probing, subject.seed)
            return
        reading, probing = stages(progress, 1, 6)
        examples = load_examples(subject, self.n_train, self.n_test, self.n_tokens, reading)
        for task, part in zip(examples.tasks, stages(probing, *[1.0] * len(examples.tasks)), strict=True):
            yield probe(subject.sae, examples, task, self.ks, part, subject.seed)


def probe(
    sae: Autoencoder, examples: Examples, task: Task, ks: tuple[int, ...], progress: Progress, seed: int
) -> dict[str, Any]:
    """Return all scores of one task, with the latents used."""
    x_train, x_test = examples.x_ND[task.train_N], examples.x_ND[task.test_N]
    y_train, y_test = task.y_N[task.train_N], task.y_N[task.test_N]
    latent, train_loss, test_loss = best_latent(sae, x_train, y_train, x_test, y_test, progress)
    ranked = rank_latents(sae, x_train, y_train, max(ks))
    acts_train, acts_test = (sae.activation_of(x, ranked).cpu().double().numpy() for x in (x_train, x_test))
    sparse = {}
    for k in ks:
        model = fit_best_logistic(acts_train[:, :k], y_train, seed)
        sparse[str(k)] = {**_scores(model.logits(acts_test[:, :k]), y_test), "latents": ranked[:k].tolist()}
    raw = fit_best_logistic(x_train.cpu().double().numpy(), y_train, seed)
    base = min(max(float(y_train.mean()), 1e-9), 1 - 1e-9)
    return {
        "task": task.name, "n_train": len(y_train), "n_test": len(y_test), "positive": float(y_test.mean()),
        "latent": latent, "probe_loss": test_loss, "probe_loss_train": train_loss,
        "probe_loss_base": float(-(y_test * math.log(base) + (1 - y_test) * math.log(1 - base)).mean()),
        "sparse": sparse, "raw": _scores(raw.logits(x_test.cpu().double().numpy()), y_test)}


def best_latent(
    sae: Autoencoder, x_train: Tensor, y_train: NDArray[np.float64], x_test: Tensor, y_test: NDArray[np.float64],
    progress: Progress,
) -> tuple[int, float, float]:
    """Return the latent whose probe has the lowest loss on the train examples, that loss, and its test loss.

    Every latent's probe gets a few steps of Newton's method, and the probes with the lowest losses get the rest.
    """
    fit_on, check_on = (torch.from_numpy(y).float().to(sae.device) for y in (y_train, y_test))
    size, losses = max(1, _CHUNK // len(x_train)), []
    for start in range(0, sae.n_latents, size):
        latents = torch.arange(start, min(start + size, sae.n_latents), device=sae.device)
        z_NL = sae.pre_activations_of(x_train, latents)
        losses.append(fit_probes(z_NL, fit_on, _FIRST_STEPS).loss_L(z_NL, fit_on))
        progress(int(latents[-1]) + 1, sae.n_latents)
    lowest = torch.cat(losses).topk(min(_REFINED, sae.n_latents), largest=False).indices
    z_NL = sae.pre_activations_of(x_train, lowest)
    probes = fit_probes(z_NL, fit_on)
    loss_L = probes.loss_L(z_NL, fit_on)
    i = int(loss_L.argmin())
    return int(lowest[i]), float(loss_L[i]), float(probes.loss_L(sae.pre_activations_of(x_test, lowest), check_on)[i])


def rank_latents(sae: Autoencoder, x_ND: Tensor, y_N: NDArray[np.float64], n: int) -> Tensor:
    """Return the `n` latents whose mean activations differ most between the classes, [K].

    The difference is in units of the latent's mean absolute non-zero activation over these examples.
    """
    codes = sae.codes(x_ND)
    y = torch.from_numpy(y_N).to(codes.value_N)
    weight_N = torch.where(y > 0.5, 1 / y.sum().clamp(min=1), -1 / (1 - y).sum().clamp(min=1))

    def total_L(value_N: Tensor) -> Tensor:
        return torch.zeros(sae.n_latents, device=value_N.device).index_add_(0, codes.latent_N, value_N)

    scale_L = total_L(codes.value_N.abs()) / (total_L((codes.value_N != 0).float()) + 1e-6) + 1e-6
    difference_L = total_L(codes.value_N * weight_N[codes.token_N]) / scale_L
    return difference_L.abs().argsort(descending=True, stable=True)[:n]


def _scores(logit_N: NDArray[np.float64], y_N: NDArray[np.float64]) -> dict[str, Any]:
    predicted_N = logit_N > 0
    return {"accuracy": float((predicted_N == (y_N == 1)).mean()), "auc": auc(logit_N, y_N),
            "f1": weighted_f1(predicted_N, y_N)}
