"""Checks of an SAE's files that need no torch, so that one damaged SAE is found before a page or a run reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from sae.faults import faults

_MAX_BYTES = 16_000_000  # a larger `sae.json` is not one
_INTEGER = 2**31 - 1  # the largest number that a column of the database takes


class _Model(BaseModel):
    name: str = Field(max_length=1_000)


class _Site(BaseModel):
    layer: int = Field(ge=0, le=_INTEGER)
    hook: str = Field(max_length=120)
    out_hook: str | None = Field(None, max_length=120)


class _Metrics(BaseModel):
    fvu: float | None = None
    l0: float | None = None
    delta_ce: float | None = None
    ce_recovered: float | None = None
    dead_fraction: float | None = None


class _Training(BaseModel):
    tokens: float | None = None
    seconds: float | None = None
    tokens_per_s: float | None = None


class _Imported(BaseModel):
    format: str = ""
    source: str = ""


class _Threshold(BaseModel):
    calibrated: float | None = None
    trained: float | None = None
    l0_calibrated: float | None = None
    l0_trained: float | None = None


class SaeConfig(BaseModel):
    """The parts of a `sae.json` that pages read.  Other parts are not checked here."""

    model_config = ConfigDict(strict=True)

    architecture: str = Field(max_length=40)
    n_latents: int = Field(ge=0, le=_INTEGER)
    site: _Site
    k: int | None = Field(None, ge=0, le=_INTEGER)
    d_model: int | None = Field(None, ge=0, le=_INTEGER)
    model: _Model
    normalize: str | None = None
    metrics: _Metrics | None = None
    training: _Training | None = None
    imported: _Imported | None = None
    threshold: _Threshold | None = None
    run: str | None = None
    weights: str | None = None
    created: float | None = Field(None, ge=0, le=1e11)

    @model_validator(mode="after")
    def _complete(self) -> SaeConfig:
        """Check that an SAE with weights says how they are used, and a dashboard where it comes from."""
        if self.weights == "none":
            if self.imported is None:
                raise ValueError("imported is missing")
        elif not self.d_model or self.normalize is None:
            raise ValueError(f"{'normalize' if self.d_model else 'd_model'} is missing")
        return self


def load_config(path: Path) -> dict[str, Any]:
    """Return the content of a `sae.json`.  Raises ValueError, with a reason in one line, if pages cannot use it."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"sae.json has {path.stat().st_size:,} bytes, more than {_MAX_BYTES:,}")
        config = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        json.dumps(config, ensure_ascii=False).encode()  # fails for half a surrogate pair, which no page can send
    except OSError as error:
        raise ValueError(f"sae.json cannot be read ({error.strerror})") from None
    except UnicodeError:
        raise ValueError("sae.json is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"sae.json is not JSON ({error})") from None
    except RecursionError:
        raise ValueError("sae.json is nested too deeply") from None
    if not isinstance(config, dict):
        raise ValueError("sae.json is not a JSON object")
    try:
        SaeConfig.model_validate(config)
    except ValidationError as error:
        first = faults(error, SaeConfig)[0]
        raise ValueError(f"sae.json: {first.about('.'.join(map(str, first.path)))}") from None
    return config


def weights_fault(folder: Path) -> str:
    """Return what is wrong with the weights file of an SAE's folder by its header and size; "" if nothing is.

    A missing file is no fault here: a dashboard has none.
    """
    path = folder / "sae.safetensors"
    if not path.exists():
        return ""
    try:
        with safe_open(str(path), framework="numpy") as file:
            names = set(file.keys())
    except (SafetensorError, OSError) as error:
        return f"sae.safetensors is damaged ({str(error).splitlines()[0]})"
    return "" if {"W_enc", "W_dec"} <= names else "sae.safetensors does not have the tensors of an SAE"


def _no_number(name: str) -> float:
    raise ValueError(f"sae.json has the value {name}, which is not JSON")
