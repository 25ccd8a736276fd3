"""The training loop of one SAE, and the artefact made of what it leaves.

A source gives raw activations [B, D] as batches that depend on the step number alone
(`ActivationStream`, or `StoredActivations` for experiments), so a run resumed from a
checkpoint ends with the same weights as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sae.autoencoder import Autoencoder
from sae.checkpoint import load_checkpoint, save_checkpoint
from sae.errors import UserError
from sae.folding import fold_scale
from sae.normalization import Normalizer
from sae.specs import TrainSpec
from sae.start import Start
from sae.trainee import Trainee

_SAMPLE_TOKENS = 32_768  # activations from which b_dec, the variance and the scale are measured
_CHECKPOINT_S = 20.0  # seconds between checkpoints, more where writing one would take
_CHECKPOINT_SHARE = 0.05  # a larger share of the time than this
_LOG_S = 0.5
_THETA_SHARE = 0.1  # θ is the mean over the batches of the last tenth of the run


class Source(Protocol):
    """Where batches of raw activations come from."""

    def sample(self, n_tokens: int) -> Tensor: ...

    def batches(self, start_step: int = 0) -> Iterator[Tensor]: ...


@dataclass
class StoredActivations:
    """Activations already in memory: every pass another permutation, from the seed alone."""

    x_ND: Tensor
    batch_tokens: int
    seed: int = 0

    def sample(self, n_tokens: int) -> Tensor:
        return self.x_ND[self._order(0)[:n_tokens]].float()

    def batches(self, start_step: int = 0) -> Iterator[Tensor]:
        per_pass = len(self.x_ND) // self.batch_tokens
        while True:
            number, step = divmod(start_step, per_pass)
            rows = self._order(number)[step * self.batch_tokens : (step + 1) * self.batch_tokens]
            yield self.x_ND[rows].float()
            start_step += 1

    def _order(self, number: int) -> Tensor:
        if getattr(self, "_kept", (None,))[0] != number:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            self._kept = (number, torch.randperm(len(self.x_ND), generator=generator))
        order: Tensor = self._kept[1]
        return order


@dataclass
class Trained:
    """What a finished loop leaves."""

    trainee: Trainee
    normalizer: Normalizer
    theta_batches: tuple[int, int]  # the steps whose minima θ is the mean of
    seconds: float


def default_lr(n_latents: int, n_steps: int) -> float:
    """Peak learning rate: 2e-4·√(2^14 / L), as in dictionary_learning and sparsify, times √(1 + 10^5 / steps).

    The literature's rate is for runs of 10^5 steps and more.  In a short run it leaves the SAE far from
    trained: 700 steps at L = 2,048, k = 32 ended at FVU 0.239 with 4e-4 and 0.138 with the rate that this
    gives, 6.8e-3 (`benchmarks/results`).  The second factor is a fit to such runs, not a law.
    """
    return float(2e-4 * (2**14 / n_latents) ** 0.5 * (1 + 1e5 / n_steps) ** 0.5)


def train(
    spec: TrainSpec, source: Source, device: torch.device, *, checkpoint: Path | None = None,
    update: Callable[[int], None] = lambda tokens: None, row: Callable[..., None] = lambda **values: None,
    lm_seconds: Callable[[], float] = lambda: 0.0,
) -> Trained:
    """Train to the end of `spec`, from `checkpoint` if it exists.

    `update(tokens)` is called after every step and may raise to stop; the state is saved before
    the exception leaves.  `row(**metrics)` receives the curves.  Raises UserError (field `lr`) when
    the loss is no longer a number; the last good checkpoint stays.
    """
    n_steps = spec.tokens // spec.batch_tokens
    state = load_checkpoint(checkpoint, device) if checkpoint else None
    trainee, normalizer = _begin(spec, source, device, state)
    step = int(state["step"]) if state else 0
    before = float(state["seconds"]) if state else 0.0
    started = saved = time.perf_counter()
    interval = _CHECKPOINT_S
    whole = True  # whether trainee and step belong together: not in the middle of a step

    def seconds() -> float:
        return before + time.perf_counter() - started

    def save() -> None:
        nonlocal saved, interval
        if checkpoint and whole:
            begun = time.perf_counter()
            save_checkpoint(checkpoint, {
                "step": step, "seconds": seconds(), "trainee": trainee.state(),
                "normalizer": [normalizer.kind, normalizer.factor]})
            saved = time.perf_counter()
            interval = max(_CHECKPOINT_S, (saved - begun) / _CHECKPOINT_SHARE)

    theta_from = n_steps - max(1, int(n_steps * _THETA_SHARE))
    peak = spec.lr or default_lr(spec.n_latents, n_steps)
    curves = _Curves(row, lm_seconds)
    try:
        for x_BD in source.batches(step) if step < n_steps else ():
            y_BD, scale_B1, _ = normalizer.apply(x_BD.to(device))
            lr = learning_rate(step, n_steps, peak, spec.warmup_steps, spec.decay_fraction)
            whole = False
            result = trainee.step(y_BD, lr)
            loss = float(result.loss)
            if not math.isfinite(loss):
                raise UserError(f"lr: the loss is no longer a number at step {step}; lower the learning rate, {lr:.2g} "
                                "there, and look for activations that are not finite", "lr")
            if step >= theta_from:
                trainee.sparsity.observe(result.codes)
            step, whole = step + 1, True
            curves.add(x_BD, result.error_BD * scale_B1, result.codes.value_N)
            curves.maybe_write(step == n_steps, step, spec, trainee, lr, loss)
            update(step * spec.batch_tokens)
            if time.perf_counter() - saved > interval:
                save()
            if step == n_steps:
                break
    finally:
        save()
    return Trained(trainee, normalizer, (theta_from, n_steps), seconds())


def learning_rate(step: int, n_steps: int, peak: float, warmup_steps: int, decay_fraction: float) -> float:
    """Linear from 0 over the warm-up, constant, then linear to 0 over the last `decay_fraction`."""
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    decay_steps = n_steps * decay_fraction
    fall = min(1.0, (n_steps - step) / decay_steps) if decay_steps else 1.0
    return peak * min(warm, fall)


def _begin(
    spec: TrainSpec, source: Source, device: torch.device, state: dict[str, Any] | None
) -> tuple[Trainee, Normalizer]:
    """A trainee, fresh from a sample of the data or taken from a checkpoint."""
    if state:
        return Trainee.resumed(spec, state["trainee"], device), Normalizer(*state["normalizer"])
    x_ND = source.sample(_SAMPLE_TOKENS).to(device)
    normalizer = Normalizer.fit(spec.normalize, x_ND)
    start = Start.measure(normalizer.apply(x_ND)[0], b_dec_init=spec.b_dec_init)
    return Trainee(spec, start, device), normalizer


class _Curves:
    """Sums since the last row of `progress.jsonl`; divided once, when the row is written."""

    def __init__(self, row: Callable[..., None], lm_seconds: Callable[[], float]) -> None:
        self.row, self.lm_seconds = row, lm_seconds
        self._reset()

    def _reset(self) -> None:
        self.error = self.variance = self.active = torch.zeros((), dtype=torch.float64)
        self.minimum: float | None = None
        self.tokens, self.since, self.lm_before = 0, time.perf_counter(), self.lm_seconds()

    def add(self, x_BD: Tensor, error_BD: Tensor, value_N: Tensor) -> None:
        self.error = self.error + error_BD.square().sum().double().cpu()
        self.variance = self.variance + (x_BD - x_BD.mean(dim=0)).square().sum().double().cpu()
        self.active = self.active + len(value_N)
        self.tokens += len(x_BD)
        self.minimum = float(value_N.min()) if len(value_N) else None

    def maybe_write(
        self, force: bool, step: int, spec: TrainSpec, trainee: Trainee, lr: float, loss: float
    ) -> None:
        elapsed = time.perf_counter() - self.since
        if elapsed < _LOG_S and not force:
            return
        self.row(
            step=step, tokens=step * spec.batch_tokens, loss=loss, fvu=float(self.error / self.variance),
            l0=float(self.active) / self.tokens, dead=trainee.n_dead / spec.n_latents, lr=lr, theta=self.minimum,
            tokens_per_s=self.tokens / elapsed, lm_share=(self.lm_seconds() - self.lm_before) / elapsed)
        self._reset()


def artefact(trained: Trained, config: dict[str, Any]) -> Autoencoder:
    """The SAE that takes raw activations: a dataset-wise scale is folded into its weights (`sae.folding`)."""
    s = trained.normalizer.factor
    sae = Autoencoder(fold_scale(trained.trainee.tensors(), config["architecture"], s), config)
    theta = trained.trainee.sparsity.threshold
    if theta is not None:
        sae.sparsity.threshold = theta / s
    return sae
