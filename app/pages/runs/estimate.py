"""What a training run will cost, roughly, before it is started: time, memory, disk.

Time is work divided by speed.  Work is counted in multiply-adds from the shapes.  Speed comes
from the SAEs trained in this workspace where there are any, else from a plain guess per core;
the range shown says how much to trust it.  Memory and disk follow from the shapes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae.lm.model_info import ModelInfo
from sae.specs.registry import SweepSpec, TrainSpec

_FLOPS_PER_CORE = 5e10  # a guess for float32 matrix products on one core of a usual server
_PROGRAM_BYTES = 9e8  # the interpreter with torch and transformer_lens loaded
_START_S = 20  # loading the libraries and the model, reading text


@dataclass(frozen=True)
class Estimate:
    """Seconds from `low_s` to `high_s`, bytes of memory and of disk, and where the speed is from."""

    low_s: float
    high_s: float
    memory: float
    disk: float
    basis: str


def work(spec: TrainSpec | SweepSpec, info: ModelInfo) -> float:
    """Floating-point operations of the whole run, as the shapes tell; the language model reads once for all SAEs."""
    per_block = 24 * info.d_model**2  # attention and MLP of one block, one token: 12 D² weights, 2 operations each
    to_site = per_block * (spec.layer + 1)
    whole_lm = per_block * info.n_layers + 2 * info.d_model * info.d_vocab
    members = spec.members()
    encode = sum(2 * member.n_latents * _width(member.site, info) for member in members)
    train = spec.tokens * (3 * encode + to_site / spec.reuse)
    evaluate = 2 * spec.eval_tokens * (to_site + encode) + spec.ce_tokens * ((3 + len(members)) * whole_lm + encode)
    index = spec.index_tokens * (len(members) * to_site + encode) if spec.index else 0
    return train + evaluate + index


def _width(site: str, info: ModelInfo) -> int:
    """Coordinates at a site; the MLP's hidden width is not in every config, and four times the model's is usual."""
    return info.d_model * (4 if site == "mlp.hook_post" else 1)


def measured_speed(configs: Iterable[dict[str, Any]]) -> float | None:
    """Operations per second of the newest SAE that tells how long its training took, or None."""
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
            return tokens * (3 * encode + to_site / reuse) / seconds
    return None


def estimate(spec: TrainSpec | SweepSpec, info: ModelInfo, configs: Iterable[dict[str, Any]] = ()) -> Estimate:
    """The estimate for `spec` on this machine.  `configs`: `sae.json` of SAEs trained here, newest first."""
    speed = measured_speed(configs)
    if speed is not None:
        basis, spread = "from the speed of the last training in this workspace", 1.5
    else:
        cores = os.cpu_count() or 1
        speed = _FLOPS_PER_CORE * cores
        basis, spread = f"a guess from {cores} cores; nothing was trained in this workspace yet", 2.0
    if spec.device != "cpu" and has_gpu():
        basis += "; a GPU is here, with which it may be far less"
    seconds = work(spec, info) / speed
    members = spec.members()
    sae_floats = sum(2 * member.n_latents * _width(member.site, info) for member in members)
    width = sum(_width(site, info) for site in (spec.site, spec.out_site) if site)
    largest = max(member.n_latents for member in members)
    total_latents = sum(member.n_latents for member in members)
    lm_floats = 12 * info.n_layers * info.d_model**2 + 2 * info.d_vocab * info.d_model
    buffer = min(spec.buffer_tokens, max(1, spec.tokens // spec.reuse))
    memory = (
        _PROGRAM_BYTES + 4 * lm_floats
        + 4 * 4 * sae_floats  # weights, gradients and Adam's two moments
        + 2 * (4 if spec.buffer_dtype == "float32" else 2) * buffer * width  # two chunks of activations
        + 2 * spec.batch_tokens * total_latents  # pre-activations of a batch, kept by every SAE
        + 2 * 4 * spec.batch_tokens * largest)  # and what selection needs, of one at a time
    text = spec.tokens / spec.reuse + 2 * spec.eval_tokens + (spec.index_tokens if spec.index else 0)
    contexts = total_latents * (spec.top_contexts + 4 * spec.band_contexts) if spec.index else 0
    disk = 4 * sae_floats + 3 * 4 * sae_floats + 4 * text + 300 * contexts
    return Estimate(_START_S + seconds / spread, _START_S + seconds * spread, memory, disk, basis)


def has_gpu() -> bool:
    """Whether an NVIDIA driver is at work here; asked without torch."""
    return Path("/proc/driver/nvidia/version").exists()
