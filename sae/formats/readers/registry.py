"""Reading of an SAE at a path: choice of the reader, settings from the user, and conversion to the artefact."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae import __version__
from sae.autoencoder.architectures import REGISTRY
from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError
from sae.formats.detect import find
from sae.formats.fold import fold
from sae.formats.foreign import Foreign, MissingFacts
from sae.formats.readers import (
    bare_tensors as bare,
)
from sae.formats.readers import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    openai,
    openmoss,
    saelens,
    sparsify,
)
from sae.formats.readers import (
    saescope as own,
)
from sae.formats.untrusted_tensors import read_tensors
from sae.lm.sites import parse_site

_NO: dict[str, Any] = {}


def read(path: Path, given: Mapping[str, Any] = _NO, hint: str = "") -> Foreign:
    """Read the SAE at `path`.  `hint` is the full name of the source, which may contain model and site.

    `given` holds settings of `sae.specs.imports.ImportSpec`, which override the file's.  Settings that are
    still missing are in the result's `asks`.  Raises UserError (field `source`) for a file that cannot be read, and
    (the setting's field) for a setting that contradicts the file.
    """
    found = find(path, hint)
    given = {key: value for key, value in given.items() if value not in ("", None, 0, 0.0)}
    if found.format == "by_tensors":
        tensors = read_tensors(found.weights)
        if set(tensors) >= openai.KEYS:
            foreign = openai.read(found, tensors, given)
        elif gemma_scope.matches(tensors) and (found.weights.suffix == ".npz" or "w_enc" in tensors):
            foreign = gemma_scope.read(found, tensors, given)
        else:
            foreign = bare.read(found, tensors, given)
    else:
        readers = {"saelens": saelens.read, "sparsify": sparsify.read, "saescope": own.read,
                   "dictionary_learning": dictionary_learning.read, "openmoss": openmoss.read,
                   "circuit_tracer": circuit_tracer.read}
        foreign = readers[found.format](found, given)
    foreign.files = [found.weights.name, *([found.config.name] if found.config else [])]
    _refuse_unused(given, foreign)
    _apply(given, foreign)
    return foreign


def _refuse_unused(given: Mapping[str, Any], foreign: Foreign) -> None:
    """Raise UserError for a setting that the reader did not use because the file states another value."""
    w = foreign.weights
    for name, stated in (("architecture", w.architecture), ("k", w.k)):
        if name in given and given[name] != stated and name not in foreign.asks:
            shown = stated or f"none: {w.architecture} has no k"
            raise UserError(f"{name}: {given[name]} is given, but {foreign.files[0]} ({foreign.format}) states "
                            f"{shown}; leave the setting out", name)
    if "threshold" in given and not (REGISTRY[w.architecture].has_threshold and REGISTRY[w.architecture].has_k):
        raise UserError(f"threshold: the one threshold of a BatchTopK is given, but {foreign.files[0]} is "
                        f"{w.architecture}; leave the setting out", "threshold")


def _apply(given: Mapping[str, Any], foreign: Foreign) -> None:
    w = foreign.weights
    foreign.model = given.get("model") or foreign.model
    foreign.hook, foreign.out_hook = given.get("hook") or foreign.hook, given.get("out_hook") or foreign.out_hook
    foreign.context_length = given.get("context_length") or foreign.context_length
    if "bos" in given:
        foreign.bos = given["bos"] == "yes"
    if "subtract_b_dec" in given:
        w.centred = given["subtract_b_dec"] == "yes"
        if w.centred and w.W_enc_LD.shape[1] != len(w.b_dec_D):
            raise UserError("subtract_b_dec: b_dec and the input have different widths", "subtract_b_dec")
    if "threshold" in given:
        w.threshold, foreign.calibrate = w.b_enc_L.new_tensor([float(given["threshold"])]), False
    if "normalize" in given:
        w.normalize = str(given["normalize"])
    if "input_scale" in given:
        w.input_scale = float(given["input_scale"])
    w.transcoder = w.transcoder or bool(foreign.out_hook and foreign.out_hook != foreign.hook)
    for name in ("hook", "out_hook"):
        if getattr(foreign, name):
            parse_site(getattr(foreign, name), name)
    asked = {"model": "the language model it was trained on", "hook": "the site it reads, e.g. "
             "blocks.6.hook_resid_post", "out_hook": "the site it reconstructs", "bos": "yes or no: whether it was "
             "trained on contexts that begin with BOS"}
    missing = {"model": not foreign.model, "hook": not foreign.hook, "out_hook": w.transcoder and not foreign.out_hook,
               "bos": foreign.bos is None}
    for name, named in foreign.unknown_sites.items():
        asked[name] += f"; the file names {named!r}, which is no site here"
    foreign.asks = {name: why for name, why in asked.items() if missing[name]} | foreign.asks


def demand(foreign: Foreign) -> None:
    """Raise MissingFacts, with a line that names every missing setting, if any is missing."""
    if foreign.asks:
        raise MissingFacts(foreign.asks, foreign)


def convert(foreign: Foreign, sae_id: str = "") -> Autoencoder:
    """Convert to the artefact.  The caller fills in metrics and run."""
    tensors, folded, done = fold(foreign.weights)
    L, D = folded.W_dec_LD.shape
    threshold = None
    if REGISTRY[folded.architecture].has_threshold and folded.threshold is not None:
        threshold = {"trained": float(folded.threshold)}
    config: dict[str, Any] = {
        "schema_version": 1, "id": sae_id, "model": {"name": foreign.model, "id": sae_id.partition("/")[0]},
        "site": {"layer": parse_site(foreign.hook)[0] if foreign.hook else 0, "hook": foreign.hook},
        "architecture": folded.architecture, "n_latents": L, "d_model": D,
        "k": folded.k if REGISTRY[folded.architecture].has_k else None, "normalize": folded.normalize,
        "weight_processing": "raw", "bos": {"prepended": bool(foreign.bos), "trained_on": bool(foreign.bos)},
        "context_length": foreign.context_length or 128, "threshold": threshold, "metrics": {}, "training": {},
        "imported": {
            "format": foreign.format, "files": foreign.files, "dtype": foreign.dtype, "folds": done,
            "trained_as": foreign.trained_as, "bos": foreign.bos, "claims": foreign.claims, "notes": foreign.notes,
            "details": foreign.details},
        "run": None, "created": time.time(), "saescope_version": __version__}
    if folded.W_enc_LD.shape[1] != D:
        config["d_in"] = folded.W_enc_LD.shape[1]
    if folded.transcoder:
        config["site"]["out_hook"] = foreign.out_hook or "out"
    return Autoencoder(tensors, config)


def load(path: Path, **given: Any) -> Autoencoder:
    """Load the SAE of a foreign file as an artefact, without a check on activations."""
    return convert(read(path, given))
