"""Training runs so small that they take a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sae.specs.registry import SweepSpec, TrainSpec
from sae.training.loop import StoredActivations, train_all

CPU = torch.device("cpu")
GRID = SweepSpec(
    architecture=("batch_topk", "jumprelu", "gated", "matryoshka"), n_latents=(32, 40), k=(3,), tokens=64 * 20,
    batch_tokens=64, warmup_steps=3, k_aux=8, dead_after_tokens=200, normalize="dataset")


class Stopped(Exception):
    pass


def spec_of(**values: Any) -> TrainSpec:
    return TrainSpec(**{
        "n_latents": 40, "k": 3, "tokens": 64 * 20, "batch_tokens": 64, "warmup_steps": 3, "k_aux": 8,
        "dead_after_tokens": 200, "normalize": "none", **values})


def source_of(x_ND: Tensor) -> StoredActivations:
    return StoredActivations(x_ND, 64, seed=2)


def config_of(spec: TrainSpec) -> dict[str, Any]:
    return {"architecture": spec.architecture, "normalize": spec.normalize, "k": spec.k}


def stop_at(step: int) -> Callable[[int], None]:
    def update(tokens: int) -> None:
        if tokens == step * 64:
            raise Stopped

    return update


def rows_of(*args: Any, **options: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    train_all(*args, row=lambda **row: rows.append(row), **options)
    return rows
