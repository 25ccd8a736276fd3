"""The JSON of one latent ("feature"), as Neuronpedia and SAEDashboard write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sae.formats import untrusted_json
from sae.formats.dashboards.records import MAX_LATENTS, Example, Feature
from sae.formats.histogram_bins import Bins

_MAX_TOKENS = 16_384  # tokens of a context


def feature_of(
    latent: int, row: dict[str, Any], *, density: float | None, max_act: float | None,
    neighbours: list[tuple[int, float]], more: dict[str, Any],
) -> Feature:
    """Parse the part of a latent's row that both formats share."""
    return Feature(
        latent, density if density is not None and 0 <= density <= 1 else None, max_act,
        bins_of(row.get("freq_hist_data_bar_values"), row.get("freq_hist_data_bar_heights")),
        bins_of(row.get("logits_hist_data_bar_values"), row.get("logits_hist_data_bar_heights")),
        _tokens(row.get("pos_str"), row.get("pos_values")), _tokens(row.get("neg_str"), row.get("neg_values")),
        neighbours, more)


def bins_of(centres: Any, counts: Any) -> Bins | None:
    """Return a histogram, or None if it is missing or broken, or if its heights are not counts."""
    middle, heights = untrusted_json.numbers(centres), untrusted_json.numbers(counts)
    if not heights or middle is None or len(middle) != len(heights) or len(heights) > 4096:
        return None
    whole = [untrusted_json.whole(h) for h in heights]
    return Bins(middle, whole) if None not in whole and max(heights) < 2**32 else None  # type: ignore[arg-type]


def _tokens(strings: Any, values: Any) -> list[tuple[str, float]]:
    names, numbers = untrusted_json.texts(strings), untrusted_json.numbers(values)
    return list(zip(names, numbers, strict=False))[:100] if names and numbers else []


def _pairs(indices: Any, values: Any) -> list[tuple[int, float]]:
    cosines = untrusted_json.numbers(values)
    if not isinstance(indices, list) or cosines is None:
        return []
    found = zip(map(untrusted_json.whole, indices), cosines, strict=False)
    return [(i, cosine) for i, cosine in found if i is not None and i < MAX_LATENTS][:100]


def example_of(
    file: Path, latent: int, row: dict[str, Any], keys: tuple[str, str, str], more: dict[str, Any],
) -> Example:
    """Parse a context's row of either format.  Raises UserError if its tokens or values are invalid."""
    tokens, values = untrusted_json.texts(row.get("tokens")), untrusted_json.numbers(row.get("values"))
    if not tokens or values is None or len(tokens) != len(values) or len(tokens) > _MAX_TOKENS:
        raise untrusted_json.refuse(
            file, f"a context of latent {latent} has no tokens, or no finite value for each of them")
    low, high, at = keys
    return Example(latent, tokens, values, untrusted_json.number(row.get(low)), untrusted_json.number(row.get(high)),
                   untrusted_json.whole(row.get(at)), more)
