"""An estimate of what a training run costs, before it is started: time, memory, disk.

Time is work divided by speed.  Work is counted in floating-point operations from the shapes.  Speed is the median over
the last SAEs trained in this workspace, so that one run on a busy machine does not decide; a guess per core counts as
one more value while there are few.  Memory and disk follow from the shapes; a GPU's memory from the formula that the
run itself checks before its first step.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sae.lm.load_settings import LoadSettings
from sae.lm.model_info import ModelInfo
from sae.specs.registry import SweepSpec, TrainSpec
from sae.training.memory import fitting_bytes, too_large

_FLOPS_PER_CORE = 5e10  # a guess for float32 matrix products on one core of a usual server
_PROGRAM_BYTES = 9e8  # the interpreter with torch and transformer_lens loaded
_MEASURED = 7  # trainings that are looked at
_TRUSTED = 3  # trainings whose speeds need no guess next to them
_START_S = 20  # loading the libraries and the model, reading text


@dataclass(frozen=True)
class Estimate:
    """Seconds from `low_s` to `high_s`, bytes of `memory` and of `disk`, and the `basis` of the speed.

    `gpu_memory` is what a run on a GPU needs there, None for a run on the CPU.  `too_large` says which sizes would fit
    if the GPU has less free.
    """

    low_s: float
    high_s: float
    memory: float
    disk: float
    basis: str
    gpu_memory: float | None = None
    too_large: str | None = None


def work(spec: TrainSpec | SweepSpec, info: ModelInfo) -> float:
    """Return the floating-point operations of the whole run.  The language model reads once for all SAEs."""
    per_block = 24 * info.d_model**2  # attention and MLP of one block, one token: 12 D² weights, 2 operations each
    to_site = per_block * (max(spec.all_layers) + 1)
    whole_lm = per_block * info.n_layers + 2 * info.d_model * info.d_vocab
    members = spec.members()
    encode = sum(2 * member.n_latents * site_width(member.site, info) for member in members)
    train = spec.tokens * (3 * encode + (0 if spec.activations else to_site / spec.reuse))
    evaluate = 2 * spec.eval_tokens * (to_site + encode) + spec.ce_tokens * ((3 + len(members)) * whole_lm + encode)
    index = spec.index_tokens * (len(members) * to_site + encode) if spec.index else 0
    return train + evaluate + index


def site_width(site: str, info: ModelInfo) -> int:
    """Return the coordinates at a site, at most.  Not every config has the MLP's hidden width; four times d_model is
    usual.
    """
    return info.d_model * (4 if site == "mlp.hook_post" else 1)


def measured_speeds(configs: Iterable[dict[str, Any]]) -> list[float]:
    """Return the operations per second of the newest SAEs that say how long their training took, one for each run."""
    speeds: dict[str, float] = {}
    for config in configs:
        try:
            training = config["training"]
            seconds, tokens = float(training["seconds"]), float(training["tokens"])
            encode = 2 * int(config["n_latents"]) * int(config["d_model"])
            to_site = 24 * int(config["d_model"]) ** 2 * (int(config["site"]["layer"]) + 1)
            reuse = max(1, int(training.get("reuse", 1)))
            seconds /= max(1, int(training.get("saes_trained_together", 1)))  # about this one's part
        except (KeyError, TypeError, ValueError):
            continue
        if seconds > 20:  # shorter ones are mostly warming up
            run = str(config.get("run") or len(speeds))  # the SAEs of a sweep are one measurement
            speeds.setdefault(run, tokens * (3 * encode + to_site / reuse) / seconds)
        if len(speeds) == _MEASURED:
            break
    return list(speeds.values())


def usual_speed(measured: Sequence[float], guess: float) -> tuple[float, float]:
    """Return the median speed, and the factor by which the true one may differ either way."""
    values = [*measured, guess] if len(measured) < _TRUSTED else list(measured)
    middle = math.exp(statistics.median(map(math.log, values)))  # between two values, their geometric mean
    return middle, 1.5 if len(measured) >= _TRUSTED else 2.0


def estimate(spec: TrainSpec | SweepSpec, info: ModelInfo, configs: Iterable[dict[str, Any]] = ()) -> Estimate:
    """Return the estimate for `spec` on this machine.  `configs`: `sae.json` of SAEs trained here, newest first."""
    cores, measured = os.cpu_count() or 1, measured_speeds(configs)
    speed, spread = usual_speed(measured, _FLOPS_PER_CORE * cores)
    if not measured:
        basis = f"a guess from {cores} cores; nothing was trained in this workspace yet"
    else:
        trainings = "the last training" if len(measured) == 1 else f"the last {len(measured)} trainings"
        basis = f"from the speed of {trainings} in this workspace"
    if spec.device != "cpu" and has_gpu():
        basis += "; a GPU is here, with which it may take far less"
    seconds = work(spec, info) / speed
    members = spec.members()
    sae_floats = sum(2 * member.n_latents * site_width(member.site, info) for member in members)
    width = sum(site_width(site, info) for site in (spec.site, spec.out_site) if site)
    largest = max(member.n_latents for member in members)
    total_latents = sum(member.n_latents for member in members)
    loading = LoadSettings.from_environment()
    lm_bytes = (loading.weight_bytes * 12 * info.n_layers * info.d_model**2
                + loading.other_bytes * 2 * info.d_vocab * info.d_model)
    buffer = min(spec.buffer_tokens, max(1, spec.tokens // spec.reuse))
    buffer_bytes = 2 * (4 if spec.buffer_dtype == "float32" else 2) * buffer * width  # two chunks of activations
    memory = (
        _PROGRAM_BYTES + lm_bytes
        + 4 * 4 * sae_floats  # weights, gradients and Adam's two moments
        + buffer_bytes
        + 2 * spec.batch_tokens * total_latents  # pre-activations of a batch, kept by every SAE
        + 2 * 4 * spec.batch_tokens * largest)  # and what selection needs, of one at a time
    text = spec.tokens / spec.reuse + 2 * spec.eval_tokens + (spec.index_tokens if spec.index else 0)
    contexts = total_latents * (spec.top_contexts + 4 * spec.band_contexts) if spec.index else 0
    several = len(spec.all_layers) if len(spec.all_layers) > 1 and not spec.activations else 0
    kept = 2 * spec.tokens / spec.reuse * width * several  # the activations of several layers, in bfloat16
    disk = 4 * sae_floats + 3 * 4 * sae_floats + 4 * text + 300 * contexts + kept
    made = Estimate(_START_S + seconds / spread, _START_S + seconds * spread, memory, disk, basis)
    if spec.device == "cuda" or (spec.device == "auto" and has_gpu()):
        d_in, d_out = site_width(spec.site, info), site_width(spec.out_site or spec.site, info)
        rest = lm_bytes + buffer_bytes
        free = free_gpu_memory()
        return replace(made, gpu_memory=rest + fitting_bytes(members, d_in, d_out),
                       too_large=None if free is None else too_large(members, free - rest, d_in, d_out))
    return made


def free_gpu_memory() -> float | None:
    """Return the free bytes of the first NVIDIA GPU, without asking torch, or None if its driver does not say."""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"],
                              capture_output=True, text=True, timeout=5, check=True)
        return float(done.stdout.splitlines()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def has_gpu() -> bool:
    """Return whether an NVIDIA driver is loaded, without asking torch."""
    return Path("/proc/driver/nvidia/version").exists()
