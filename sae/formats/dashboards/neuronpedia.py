"""Reading a Neuronpedia export tree, the database's dump or the converter's.  No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sae.errors import UserError
from sae.formats import untrusted_json as hostile
from sae.formats.dashboards.import_dashboard import (
    MAX_LATENTS,
    Dashboard,
    Example,
    Explained,
    Feature,
    Record,
    batch_number,
)
from sae.formats.histogram_bins import Bins

_SAMPLE_CONTEXTS = 400
_MAX_TOKENS = 16_384  # of a context


def root_of(path: Path) -> Path | None:
    """The source's folder: `path`, or the only one of `path/v1/{model}/{source}`.  None where there is none."""
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
    """What the tree at `path` says of itself.  Raises UserError (field `source`)."""
    root = root_of(path)
    if root is None:
        raise UserError(f"source: {path} has no features/batch-*.jsonl.gz of a Neuronpedia export", "source")
    features, activations = _files(root, "features"), _files(root, "activations")
    source, first = _first(root / "source.jsonl"), _first(features[0])
    metadata = _object(_object(source, "saelensConfig"), "metadata")
    own = _object(metadata, "saescope_build") or None
    name = hostile.text(source.get("id")) or hostile.text(first.get("layer")) or root.name
    layer = re.match(r"\d{1,4}", name)
    hook = hostile.text(metadata.get("hook_name")) or hostile.text(first.get("hookName"))
    files = [*features, *activations, *_files(root, "explanations")]

    def records(read: Callable[[int], None]) -> Iterator[Record]:
        for file in features:
            yield from (_feature(file, row) for row in hostile.lines(file, read))
        for file in activations:
            yield from (_example(file, row) for row in hostile.lines(file, read))
        for file in _files(root, "explanations"):
            yield from (Explained(_index(file, row), hostile.text(row.get("description"), 2000),
                                  hostile.text(row.get("authorId") or row.get("explanationModelName"), 100))
                        for row in hostile.lines(file, read))

    def sample() -> Iterable[list[str]]:
        rows = (row for file in activations for row in hostile.lines(file, lambda n: None))
        return [hostile.texts(row.get("tokens")) or [] for row in islice(rows, _SAMPLE_CONTEXTS)]

    return Dashboard(
        format="Neuronpedia export", model=hostile.text(first.get("modelId")) or root.parent.name, name=name,
        layer=int(layer[0]) if layer else 0, hook=hook, dataset=hostile.text(source.get("dataset")),
        n_prompts=hostile.whole(source.get("num_prompts")),
        context_length=hostile.whole(source.get("num_tokens_in_prompt")), records=records,
        n_bytes=sum(file.stat().st_size for file in files), sample=sample,
        n_latents=_within(hostile.whole(_object(source, "saelensConfig").get("d_sae"))), own=own,
        escaped=own is not None)


def _first(path: Path) -> dict[str, Any]:
    return next(hostile.lines(path, lambda n: None), {}) if path.is_file() else {}


def _object(row: dict[str, Any], key: str) -> dict[str, Any]:
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def _within(n: int | None) -> int | None:
    return n if n and n <= MAX_LATENTS else None


def _index(file: Path, row: dict[str, Any]) -> int:
    index = hostile.whole(row.get("index"))
    if index is None or index >= MAX_LATENTS:
        raise hostile.refuse(file, f"a line's index is {str(row.get('index'))[:30]!r}, which is no latent's number")
    return index


def _feature(file: Path, row: dict[str, Any]) -> Feature:
    more = row.get("saescope")
    return feature_of(_index(file, row), row, density=hostile.number(row.get("frac_nonzero")),
                      max_act=hostile.number(row.get("maxActApprox")),
                      neighbours=_pairs(row.get("topkCosSimIndices"), row.get("topkCosSimValues")),
                      more=more if isinstance(more, dict) else {})


def feature_of(
    latent: int, row: dict[str, Any], *, density: float | None, max_act: float | None,
    neighbours: list[tuple[int, float]], more: dict[str, Any],
) -> Feature:
    """The part of a feature row that both formats have."""
    return Feature(
        latent, density if density is not None and 0 <= density <= 1 else None, max_act,
        bins_of(row.get("freq_hist_data_bar_values"), row.get("freq_hist_data_bar_heights")),
        bins_of(row.get("logits_hist_data_bar_values"), row.get("logits_hist_data_bar_heights")),
        _tokens(row.get("pos_str"), row.get("pos_values")), _tokens(row.get("neg_str"), row.get("neg_values")),
        neighbours, more)


def bins_of(centres: Any, counts: Any) -> Bins | None:
    """A histogram, or None where it is missing, broken or its heights are no counts."""
    middle, heights = hostile.numbers(centres), hostile.numbers(counts)
    if not heights or middle is None or len(middle) != len(heights) or len(heights) > 4096:
        return None
    whole = [hostile.whole(h) for h in heights]
    return Bins(middle, whole) if None not in whole and max(heights) < 2**32 else None  # type: ignore[arg-type]


def _tokens(strings: Any, values: Any) -> list[tuple[str, float]]:
    names, numbers = hostile.texts(strings), hostile.numbers(values)
    return list(zip(names, numbers, strict=False))[:100] if names and numbers else []


def _pairs(indices: Any, values: Any) -> list[tuple[int, float]]:
    cosines = hostile.numbers(values)
    if not isinstance(indices, list) or cosines is None:
        return []
    found = zip(map(hostile.whole, indices), cosines, strict=False)
    return [(i, cosine) for i, cosine in found if i is not None and i < MAX_LATENTS][:100]


def _example(file: Path, row: dict[str, Any]) -> Example:
    more = row.get("saescope")
    return example_of(file, _index(file, row), row, ("binMin", "binMax", "qualifyingTokenIndex"),
                      more if isinstance(more, dict) else {})


def example_of(
    file: Path, latent: int, row: dict[str, Any], keys: tuple[str, str, str], more: dict[str, Any],
) -> Example:
    """A context row of either format.  Raises UserError where its tokens and values are not what they should be."""
    tokens, values = hostile.texts(row.get("tokens")), hostile.numbers(row.get("values"))
    if not tokens or values is None or len(tokens) != len(values) or len(tokens) > _MAX_TOKENS:
        raise hostile.refuse(file, f"a context of latent {latent} has no tokens, or no finite value for each of them")
    low, high, at = keys
    return Example(latent, tokens, values, hostile.number(row.get(low)), hostile.number(row.get(high)),
                   hostile.whole(row.get(at)), more)
