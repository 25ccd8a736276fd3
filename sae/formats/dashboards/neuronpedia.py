"""Reader of a Neuronpedia export tree, written by its database or by its converter.  No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sae.errors import UserError
from sae.formats import untrusted_json
from sae.formats.dashboards.feature_json import _pairs, example_of, feature_of
from sae.formats.dashboards.records import MAX_LATENTS, Dashboard, Example, Explained, Feature, Record, batch_number

_SAMPLE_CONTEXTS = 400


def root_of(path: Path) -> Path | None:
    """Return the source's folder: `path`, or the only `path/v1/{model}/{source}`, or None.

    Raises UserError (field `source`) if there is more than one.
    """
    if not path.is_dir():
        return None
    if _files(path, "features"):
        return path
    found = [p for pattern in ("*", "*/*", "v1/*/*", "*/v1/*/*") for p in sorted(path.glob(pattern))
             if p.is_dir() and _files(p, "features")]
    if len(found) > 1:
        raise UserError(f"source: {path} has {len(found)} sources; name one of them, such as {found[0]}", "source")
    return found[0] if found else None


def _files(root: Path, kind: str) -> list[Path]:
    found = [p for p in (root / kind).glob("batch-*.jsonl*") if p.name.endswith((".jsonl", ".jsonl.gz"))]
    return sorted((p for p in found if p.is_file() and not p.is_symlink()), key=batch_number)


def open_dashboard(path: Path) -> Dashboard:
    """Open the tree at `path` and read its header.  Raises UserError (field `source`)."""
    root = root_of(path)
    if root is None:
        raise UserError(f"source: {path} has no features/batch-*.jsonl.gz of a Neuronpedia export", "source")
    features, activations = _files(root, "features"), _files(root, "activations")
    source, first = _first(root / "source.jsonl"), _first(features[0])
    metadata = _object(_object(source, "saelensConfig"), "metadata")
    own = _object(metadata, "saescope_build") or None
    name = untrusted_json.text(source.get("id")) or untrusted_json.text(first.get("layer")) or root.name
    layer = re.match(r"\d{1,4}", name)
    hook = untrusted_json.text(metadata.get("hook_name")) or untrusted_json.text(first.get("hookName"))
    files = [*features, *activations, *_files(root, "explanations")]

    def records(read: Callable[[int], None]) -> Iterator[Record]:
        for file in features:
            yield from (_feature(file, row) for row in untrusted_json.lines(file, read))
        for file in activations:
            yield from (_example(file, row) for row in untrusted_json.lines(file, read))
        for file in _files(root, "explanations"):
            yield from (Explained(_index(file, row), untrusted_json.text(row.get("description"), 2000),
                                  untrusted_json.text(row.get("authorId") or row.get("explanationModelName"), 100))
                        for row in untrusted_json.lines(file, read))

    def sample() -> Iterable[list[str]]:
        rows = (row for file in activations for row in untrusted_json.lines(file, lambda n: None))
        return [untrusted_json.texts(row.get("tokens")) or [] for row in islice(rows, _SAMPLE_CONTEXTS)]

    return Dashboard(
        format="Neuronpedia export", model=untrusted_json.text(first.get("modelId")) or root.parent.name, name=name,
        layer=int(layer[0]) if layer else 0, hook=hook, dataset=untrusted_json.text(source.get("dataset")),
        n_prompts=untrusted_json.whole(source.get("num_prompts")),
        context_length=untrusted_json.whole(source.get("num_tokens_in_prompt")), records=records,
        n_bytes=sum(file.stat().st_size for file in files), sample=sample,
        n_latents=_within(untrusted_json.whole(_object(source, "saelensConfig").get("d_sae"))), own=own,
        escaped=own is not None)


def _first(path: Path) -> dict[str, Any]:
    return next(untrusted_json.lines(path, lambda n: None), {}) if path.is_file() else {}


def _object(row: dict[str, Any], key: str) -> dict[str, Any]:
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def _within(n: int | None) -> int | None:
    return n if n and n <= MAX_LATENTS else None


def _index(file: Path, row: dict[str, Any]) -> int:
    index = untrusted_json.whole(row.get("index"))
    if index is None or index >= MAX_LATENTS:
        shown = str(row.get("index"))[:30]
        raise untrusted_json.refuse(file, f"a line's index is {shown!r}, which is not the number of a latent")
    return index


def _feature(file: Path, row: dict[str, Any]) -> Feature:
    more = row.get("saescope")
    return feature_of(_index(file, row), row, density=untrusted_json.number(row.get("frac_nonzero")),
                      max_act=untrusted_json.number(row.get("maxActApprox")),
                      neighbours=_pairs(row.get("topkCosSimIndices"), row.get("topkCosSimValues")),
                      more=more if isinstance(more, dict) else {})


def _example(file: Path, row: dict[str, Any]) -> Example:
    more = row.get("saescope")
    return example_of(file, _index(file, row), row, ("binMin", "binMax", "qualifyingTokenIndex"),
                      more if isinstance(more, dict) else {})

