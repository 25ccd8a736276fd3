"""The training loop of one or many SAEs on one stream, and the conversion of the result to artefacts.

A source gives raw activations [B, W] as batches that depend on the step number alone (`ActivationStream`, or
`StoredActivations` for experiments).  So a run resumed from a checkpoint ends with the same weights as one that was
never interrupted.  All SAEs of a run share the normalised batch; a single SAE is a run of one.

No step waits for the device: sums, and the check that the loss is finite, stay on the device until a row or a
checkpoint is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.autoencoder.artefact import Autoencoder
from sae.autoencoder.folding import fold_scale
from sae.autoencoder.normalization import Normalizer
from sae.data.activations import Timing
from sae.distributed import ALONE, Group
from sae.distributed.checkpoint import load_shards, save_shards
from sae.errors import Interrupted, UserError
from sae.kernels.device import sum_dtype
from sae.specs.registry import TrainSpec
from sae.training.curves import Curves
from sae.training.memory import too_large
from sae.training.resampling import resample_if_due
from sae.training.trainer import SAETrainer

_SAMPLE_TOKENS = 32_768  # activations from which b_dec, the variance and the scale are measured
_CHECKPOINT_S = 20.0  # least seconds between checkpoints
_CHECKPOINT_SHARE = 0.05  # largest share of the time that may go into writing checkpoints
_LOG_S = 0.5  # least seconds between rows
_ROWS = 1000  # about this many rows for each factor e in time, over all SAEs
_THETA_SHARE = 0.1  # θ is the mean over the batches of the last tenth of the run
_FORMAT = 2  # version of the checkpoint's layout


class Source(Protocol):
    """The origin of batches of raw activations.  A transcoder's have two widths, concatenated."""

    widths: tuple[int, ...]
    timing: Timing

    def sample(self, n_tokens: int) -> Tensor: ...

    def batches(self, start_step: int = 0) -> Iterator[Tensor]: ...


@dataclass
class StoredActivations:
    """Activations already in memory.  Every pass has another permutation, derived from the seed alone."""

    x_ND: Tensor
    batch_tokens: int
    seed: int = 0
    widths: tuple[int, ...] = ()
    timing: Timing = field(default_factory=Timing)
    _kept: tuple[int, Tensor] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.widths = self.widths or (self.x_ND.shape[1],)

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
        """Return the order of the rows in one pass over them, caching the last one."""
        if self._kept is None or self._kept[0] != number:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            self._kept = (number, torch.randperm(len(self.x_ND), generator=generator))
        return self._kept[1]


@dataclass(frozen=True)
class Inputs:
    """The normalisation of a raw batch before the SAEs read it.

    A transcoder's target has its own scale.  With `layer_norm` only the input is normalised token by token, because
    the output's mean and standard deviation are not known at inference.
    """

    normalizer: Normalizer
    target: Normalizer | None = None

    @classmethod
    def fit(cls, kind: str, parts: Sequence[Tensor]) -> Inputs:
        target = Normalizer.fit("none" if kind == "none" else "dataset", parts[1]) if len(parts) == 2 else None
        return cls(Normalizer.fit(kind, parts[0]), target)

    def apply(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return (input [B, D_in], a transcoder's target [B, D] or None, the raw length of an error of 1 [B, 1])."""
        y_BD, scale_B1, _ = self.normalizer.apply(parts[0])
        if self.target is None:
            return y_BD, None, scale_B1
        target_BD, scale_B1, _ = self.target.apply(parts[1])
        return y_BD, target_BD, scale_B1

    def state(self) -> list[list[Any]]:
        return [[one.kind, one.factor] for one in (self.normalizer, self.target) if one]

    @classmethod
    def resumed(cls, state: list[list[Any]]) -> Inputs:
        return cls(*(Normalizer(*one) for one in state))


@dataclass
class Trained:
    """The result of a finished loop for one SAE."""

    trainer: SAETrainer
    inputs: Inputs
    theta_batches: tuple[int, int]  # the steps whose minima θ is the mean of
    seconds: float  # of the whole loop, which several SAEs may have shared

    @property
    def normalizer(self) -> Normalizer:
        return self.inputs.normalizer


def default_lr(n_latents: int, n_steps: int) -> float:
    """Return the peak learning rate 2e-4·√(2^14 / L), as in dictionary_learning and sparsify, times √(1 + 10^5 /
    steps).

    The literature's rate is for runs of at least 10^5 steps.  In a short run it leaves the SAE far from trained: 700
    steps at L = 2,048, k = 32 ended at FVU 0.239 with 4e-4, and at 0.138 with this function's 6.8e-3
    (`benchmarks/results/quality_2-core-xeon_2026-11-21.md`).  The second factor is a fit to such runs, not a law.
    """
    return float(2e-4 * (2**14 / n_latents) ** 0.5 * (1 + 1e5 / n_steps) ** 0.5)


def learning_rate(step: int, n_steps: int, peak: float, warmup_steps: int, decay_fraction: float) -> float:
    """Return the learning rate of a step: linear from 0 over the warm-up, constant, then linear to 0.

    The warm-up takes at most a fifth of the run.  The fall takes the last `decay_fraction` of the steps.
    """
    warmup_steps = min(warmup_steps, n_steps // 5)
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    decay_steps = n_steps * decay_fraction
    fall = min(1.0, (n_steps - step) / decay_steps) if decay_steps else 1.0
    return peak * min(warm, fall)


def train(spec: TrainSpec, source: Source, device: torch.device, **options: Any) -> Trained:
    """Train one SAE: `train_all` for a run of one.  Raises UserError (field `lr`) if it diverges."""
    (outcome,) = train_all([spec], source, device, **options)
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


def train_all(
    specs: Sequence[TrainSpec], source: Source, device: torch.device, *, checkpoint: Path | None = None,
    update: Callable[[int], None] = lambda tokens: None, row: Callable[..., None] = lambda **values: None,
    group: Group = ALONE,
) -> list[Trained | UserError]:
    """Train the SAEs of all specs to the end, resuming from `checkpoint` if it exists.

    The specs may differ only in their dictionaries.  `update(tokens)` is called after every step and may raise to
    stop; the state is saved before the exception is passed on.  `row(**metrics)` receives the curves, with `member` if
    there are several SAEs.  An SAE whose loss is not finite is abandoned, and the others continue.  Its outcome is a
    UserError (field `lr`), which is raised if it is the last one.  The last good checkpoint is kept.

    The processes of a `group` do this together.  Each reads whole batches from its `source` and trains on its share.
    They stop, save and write at the same step, whichever of them asks for it.
    """
    loop = _Loop(specs, source, device, checkpoint, row, group)
    together = group.world == 1  # whether all processes reach the end of this block; False if one alone has failed
    try:
        for x_BW in source.batches(loop.step) if loop.step < loop.n_steps else ():
            loop.take(x_BW)
            stop = _stop_of(update, loop.step * specs[0].batch_tokens)
            stopped, rows_due, save_due = group.agreed(
                stop is not None, group.is_main and loop.rows_due, group.is_main and loop.save_due)
            if rows_due:
                loop.rows()
            if stopped:
                together = True
                raise stop or Interrupted
            if save_due:
                loop.save()
            if loop.step == loop.n_steps:
                break
        together = True
    finally:
        if together:
            loop.save()
    return loop.outcomes()


def _stop_of(update: Callable[[int], None], tokens: int) -> Exception | None:
    """Return the exception that `update` raises, to be raised once all processes know of it."""
    try:
        update(tokens)
    except Exception as stop:
        return stop
    return None


class _Loop:
    """The state between two steps."""

    def __init__(
        self, specs: Sequence[TrainSpec], source: Source, device: torch.device, checkpoint: Path | None,
        row: Callable[..., None], group: Group,
    ) -> None:
        self.specs, self.source, self.device, self.checkpoint, self.write = specs, source, device, checkpoint, row
        self.group = group
        self.n_steps = specs[0].tokens // specs[0].batch_tokens
        self.theta_from = self.n_steps - max(1, int(self.n_steps * _THETA_SHARE))
        self.peaks = [spec.lr or default_lr(spec.n_latents, self.n_steps) for spec in specs]
        self.failed: dict[int, str] = {}
        state = load_shards(checkpoint, device, group) if checkpoint else None
        if state and state.get("format") != _FORMAT:
            raise UserError(
                "run: its checkpoint was written by another version of this program; start the run again", "run")
        self.step, self.before = (int(state["step"]), float(state["seconds"])) if state else (0, 0.0)
        self._refuse_too_large()
        self._begin(state)
        self.curves = [Curves(trainer, device) for trainer in self.trainers]
        self.variance = torch.zeros((), dtype=sum_dtype(device), device=device)
        self.whole = True  # whether trainers and step number agree: False in the middle of a step
        self.started = self.saved = self.logged = time.perf_counter()
        self.interval = _CHECKPOINT_S
        self._mark()
        self.fill_s = self.timing_before.waited  # spent on the first activations, before the first step

    def _begin(self, state: dict[str, Any] | None) -> None:
        """Make trainers from a sample of the data, or restore them from a checkpoint."""
        if state:
            self.inputs = Inputs.resumed(state["inputs"])
            self.failed = {int(member): message for member, message in state["failed"].items()}
            self.trainers = [SAETrainer.resumed(spec, one, self.device, group=self.group)
                             for spec, one in zip(self.specs, state["trainees"], strict=True)]
            return
        parts = self._parts(self.source.sample(_SAMPLE_TOKENS))
        self.inputs = Inputs.fit(self.specs[0].normalize, parts)
        y_ND, target_ND, _ = self.inputs.apply(parts)
        start = DataStatistics.measure(y_ND, target_ND, self.specs[0].b_dec_init)
        self.trainers = [SAETrainer(spec, start, self.device, group=self.group) for spec in self.specs]

    def _refuse_too_large(self) -> None:
        """Raise UserError (field `n_latents`) if the memory of a CUDA device is too small for a step."""
        if self.device.type == "cuda":
            widths = self.source.widths
            message = too_large(self.specs, torch.cuda.mem_get_info(self.device)[0], widths[0], widths[-1])
            if message:
                raise UserError(message, "n_latents")

    @property
    def members(self) -> list[int]:
        """Return the SAEs that are still being trained."""
        return [member for member in range(len(self.specs)) if member not in self.failed]

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def _parts(self, x_BW: Tensor) -> tuple[Tensor, ...]:
        """Return the part that is read, and the part that a transcoder reconstructs."""
        return torch.split(x_BW.to(self.device), list(self.source.widths), dim=1)

    def take(self, x_BW: Tensor) -> None:
        """Take one step of every SAE.  Raises UserError (field `batch_tokens`) if the device's memory is too small."""
        try:
            self._take(x_BW)
        except torch.OutOfMemoryError as error:
            raise UserError(f"batch_tokens: the memory of {self.device} is too small for a step with batches of "
                            f"{self.specs[0].batch_tokens:,} tokens; lower batch_tokens, n_latents or buffer_tokens",
                            "batch_tokens") from error

    def _take(self, x_BW: Tensor) -> None:
        whole_BD = self._parts(x_BW)[-1]
        y_BD, target_BD, scale_B1 = self.inputs.apply(self._parts(self.group.batch_share(x_BW)))
        self.whole = False
        for member in self.members:
            trainer = self.trainers[member]
            result = trainer.step(y_BD, self._lr(member, self.step), target_BD)
            resample_if_due(trainer, y_BD, result.error_BD)
            if self.step >= self.theta_from:
                trainer.sparsity.observe(result.codes)
            self.curves[member].add(self.step, result, result.error_BD * scale_B1)
        self.variance += (whole_BD - whole_BD.mean(dim=0)).square().sum()
        self.step, self.whole = self.step + 1, True

    def _lr(self, member: int, step: int) -> float:
        spec = self.specs[member]
        return learning_rate(step, self.n_steps, self.peaks[member], spec.warmup_steps, spec.decay_fraction)

    # ---- curves

    def _mark(self) -> None:
        timing = self.source.timing
        self.timing_before = Timing(timing.seconds, timing.tokens, timing.waited)
        self.logged = time.perf_counter()

    @property
    def rows_due(self) -> bool:
        wanted = max(_LOG_S, self.seconds * len(self.specs) / _ROWS)
        return time.perf_counter() - self.logged > wanted or self.step == self.n_steps

    def rows(self) -> None:
        """Write a row for every SAE, and start new sums."""
        abandoned = self._abandon_diverged()
        elapsed, now, before = time.perf_counter() - self.logged, self.source.timing, self.timing_before
        waited, read_s, read = now.waited - before.waited, now.seconds - before.seconds, now.tokens - before.tokens
        variance = float(self.variance)
        filled = {"lm_fill_s": self.fill_s} if self.fill_s else {}
        self.fill_s = 0.0
        for member, (curves, spec) in enumerate(zip(self.curves, self.specs, strict=True)):
            which = {"member": member} if len(self.specs) > 1 else {}
            if member in abandoned:
                self.write(**which, step=self.step, error=self.failed[member])
            elif member not in self.failed:
                self.write(
                    **which, step=self.step, tokens=self.step * spec.batch_tokens, **curves.row(variance),
                    lr=self._lr(member, self.step - 1), tokens_per_s=curves.n_tokens / elapsed,
                    lm_tokens_per_s=read / read_s if read else None,
                    sae_tokens_per_s=curves.n_tokens / max(elapsed - waited, 1e-9),
                    lm_share=min(1.0, waited / elapsed), **filled)
                curves.reset()
        self.variance.zero_()
        self._mark()

    def _abandon_diverged(self) -> set[int]:
        """Abandon the SAEs whose loss is not finite, and return them.  Raises UserError (field `lr`) if none is left.
        """
        abandoned = set()
        for member in self.members:
            step = self.curves[member].bad_step()
            if step is not None:
                abandoned.add(member)
                self.failed[member] = (
                    f"lr: the loss is no longer a number at step {step}; lower the learning rate, whose peak is "
                    f"{self.peaks[member]:.2g}, and check for activations that are not finite")
        if not self.members:
            raise UserError(self.failed[0], "lr")
        return abandoned

    # ---- checkpoints

    @property
    def save_due(self) -> bool:
        return time.perf_counter() - self.saved > self.interval

    def save(self) -> None:
        """Save, except in the middle of a step or if a weight is not finite: then the last good state is kept."""
        if self.checkpoint is None or not self.whole or self.group.any(not self._finite()):
            return
        started = time.perf_counter()
        save_shards(self.checkpoint, {
            "format": _FORMAT, "step": self.step, "seconds": self.seconds, "inputs": self.inputs.state(),
            "failed": {str(member): message for member, message in self.failed.items()},
            "trainees": [trainer.state() for trainer in self.trainers]}, self.group)
        self.saved = time.perf_counter()
        self.interval = max(_CHECKPOINT_S, (self.saved - started) / _CHECKPOINT_SHARE)

    def _finite(self) -> bool:
        weights = (weight for member in self.members for weight in self.trainers[member].tensors().values())
        return bool(self.members) and all(
            self.curves[member].bad_step() is None for member in self.members) and all(
            bool(weight.isfinite().all()) for weight in weights)

    def outcomes(self) -> list[Trained | UserError]:
        return [
            UserError(self.failed[member], "lr") if member in self.failed
            else Trained(trainer, self.inputs, (self.theta_from, self.n_steps), self.seconds)
            for member, trainer in enumerate(self.trainers)]


def artefact(trained: Trained, config: dict[str, Any]) -> Autoencoder:
    """Return the SAE that takes raw activations, with dataset-wise scales folded into its weights.  Collective.

    See `sae.autoencoder.folding`.
    """
    s = trained.inputs.normalizer.factor
    s_out = trained.inputs.target.factor if trained.inputs.target else s
    sae = Autoencoder(fold_scale(trained.trainer.whole_tensors(), config["architecture"], s, s_out), config)
    theta = trained.trainer.sparsity.threshold
    if theta is not None:
        sae.sparsity.threshold = theta / s_out
    return sae
