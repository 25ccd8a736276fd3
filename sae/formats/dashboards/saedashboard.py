"""Reader of SAEDashboard's `batch-*.json`.  No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sae.errors import UserError
from sae.formats import untrusted_json
from sae.formats.dashboards.feature_json import example_of, feature_of
from sae.formats.dashboards.records import MAX_LATENTS, Dashboard, Record, batch_number


def files_of(path: Path) -> list[Path]:
    """Return the batches of a folder in order, or the file itself."""
    found = [path] if path.is_file() else list(path.glob("batch-*.json"))
    return sorted((p for p in found if p.suffix == ".json" and p.name.startswith("batch-") and p.is_file()
                   and not p.is_symlink()), key=batch_number)


def open_dashboard(path: Path) -> Dashboard:
    """Open the batches and read their header.  Raises UserError (field `source`)."""
    files = files_of(path)
    if not files:
        raise UserError(f"source: {path} has no batch-*.json of SAEDashboard", "source")
    first = untrusted_json.document(files[0])
    features = _features(files[0], first)
    head, settings = features[0] if features else {}, _settings(files[0].parent)
    layer = untrusted_json.whole(first.get("layer"))
    sae_set, suffix = untrusted_json.text(first.get("sae_set")), untrusted_json.text(first.get("sae_id_suffix"))
    name = f"{layer or 0}-{sae_set or 'sae'}" + (f"__{suffix}" if suffix else "")

    def records(read: Callable[[int], None]) -> Iterator[Record]:
        for file in files:
            rows = _features(file, untrusted_json.document(file))
            for i, row in enumerate(rows):
                yield from _records(file, row)
                read(file.stat().st_size * (i + 1) // len(rows) - file.stat().st_size * i // len(rows))

    def sample() -> Iterable[list[str]]:
        return [untrusted_json.texts(row.get("tokens")) or [] for feature in features for row in _activations(feature)]

    return Dashboard(
        format="SAEDashboard", model=untrusted_json.text(first.get("model_id")) or "unknown", name=name,
        layer=layer or 0, hook=untrusted_json.text(settings.get("hook_name")),
        dataset=untrusted_json.text(head.get("dataset")), n_prompts=untrusted_json.whole(head.get("n_prompts_total")),
        context_length=untrusted_json.whole(head.get("n_tokens_in_prompt")), records=records,
        n_bytes=sum(file.stat().st_size for file in files), sample=sample, escaped="saescope" in settings)


def _settings(folder: Path) -> dict[str, Any]:
    """Return `run_settings.json`, or {} if it is missing or damaged, because it only adds to the batches."""
    path = folder / "run_settings.json"
    try:
        value = json.loads(path.read_bytes()[: 1 << 20]) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _features(file: Path, document: dict[str, Any]) -> list[dict[str, Any]]:
    features = document.get("features")
    if not isinstance(features, list) or not all(isinstance(row, dict) for row in features):
        raise untrusted_json.refuse(file, "it has no list of features")
    return features


def _activations(feature: dict[str, Any]) -> list[dict[str, Any]]:
    rows = feature.get("activations")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _records(file: Path, row: dict[str, Any]) -> Iterator[Record]:
    latent = untrusted_json.whole(row.get("feature_index"))
    if latent is None or latent >= MAX_LATENTS:
        shown = str(row.get("feature_index"))[:30]
        raise untrusted_json.refuse(file, f"a feature_index is {shown!r}, which is not the number of a latent")
    density = untrusted_json.number(row.get("frac_nonzero"))
    yield feature_of(latent, row, density=density, max_act=None, neighbours=[], more={})
    length = untrusted_json.whole(row.get("n_tokens_in_prompt"))
    for context in _activations(row):
        example = example_of(file, latent, context, ("bin_min", "bin_max", "qualifying_token_index"), {})
        if length is not None and len(example.tokens) == length - 1:  # position 0 is always left out
            example.more["start"] = 1
        yield example
