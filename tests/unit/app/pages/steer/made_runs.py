"""Steering runs made by hand, for tests of what their pages make of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from app.db.tables import SteerRun
from app.pages.steer.form import SaeFacts
from app.worker.protocol import Cell, Text
from sae.steering.measurement_requests import SweepRequest
from sae.steering.request import Intervention, SteerRequest
from tests.unit.app.pages.steer.lab import SAE

FACTS = SaeFacts(SAE, "demo", 2, 60, 256, "none", "build-1", median_norm=10.0)
PROMPT = Text(ids=[0, 5], pieces=["<|bos|>", "def"], acts=[[9.0, 9.0], [0.0, 1.0]])


def request(*modes: str, **changes: Any) -> SteerRequest:
    """Return a request that changes latent 0, 1, … by 1 in these modes; latent i has the maximum 2 + 2·i."""
    return SteerRequest(model="demo", prompt="def", interventions=tuple(
        Intervention(sae=SAE, layer=2, latent=i, mode=mode, max_act=2.0 + 2 * i)  # type: ignore[arg-type]
        for i, mode in enumerate(modes or ("add",))), **changes)


def text(*pieces: str, acts: list[list[float]] | None = None, **more: Any) -> Text:
    return Text(ids=[100 + i for i in range(len(pieces))], pieces=list(pieces), acts=acts or [], **more)


def row(asked: SteerRequest, result: dict[str, Any] | None = None, sweep: SweepRequest | None = None,
        **changes: Any) -> SteerRun:
    stored: dict[str, Any] = {"steer": asked.model_dump(mode="json"), "saes": {SAE: asdict(FACTS)}}
    if sweep is not None:
        stored["sweep"] = sweep.model_dump(mode="json", exclude={"request"})
    return SteerRun(**{"id": "steer-1", "created": 1.0, "sae_id": SAE, "state": "succeeded", "request": stored,
                       "result": result, "error": None, **changes})


def result(columns: dict[str, Text], cells: list[Cell] | None = None) -> dict[str, Any]:
    return {"prompt": PROMPT.model_dump(), "columns": {key: one.model_dump() for key, one in columns.items()},
            "cells": [cell.model_dump() for cell in cells or []], "restarted": "", "tokens": 4, "seconds": 0.5}


def cell(strength: float | None, *, concept: float = 0.1, perplexity: float = 4.0, repetition: float = 0.0) -> Cell:
    return Cell(strength=strength, text=text("a", "b"), concept=concept, repetition=repetition, perplexity=perplexity)
