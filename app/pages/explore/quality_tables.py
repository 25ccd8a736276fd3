"""Tables of a measure's detail: tasks, concepts, letters and latents, with links to the latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.render.numbers import number, percent, whole

_SHOWN, _LISTED = 12, 3


@dataclass(frozen=True)
class DetailCell:
    """A cell, perhaps a link to a latent."""

    text: str
    href: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class DetailTable:
    """A table whose rows beyond the first ones are shown on demand."""

    title: str
    heads: list[str]
    rows: list[list[DetailCell]]
    more: list[list[DetailCell]]


# Key of the detail -> title, and columns: a path into the row, a heading, and a kind (text, patterns, latent, count,
# share, or number).  A column that no row has is left out.
_Columns = Sequence[tuple[str, str, str]]
_TABLES: dict[str, tuple[str, _Columns]] = {
    "tasks": ("Tasks and the best latent of each", (
        ("task", "task", "text"), ("latent", "latent", "latent"), ("probe_loss", "probe loss", "number"),
        ("probe_loss_base", "guessing", "number"), ("sparse.1.accuracy", "accuracy, 1 latent", "share"),
        ("sparse.5.accuracy", "5 latents", "share"), ("sparse.16.accuracy", "16 latents", "share"),
        ("raw.accuracy", "raw activations", "share"), ("positive", "positive", "share"), ("n_test", "n", "count"))),
    "concepts": ("Concepts and the best latent of each", (
        ("concept", "concept", "text"), ("latent", "latent", "latent"), ("f1", "F1", "number"),
        ("precision", "precision", "share"), ("span_recall", "recall by span", "share"),
        ("recall", "recall by token", "share"), ("share", "above, of max", "share"),
        ("base_rate", "of tokens", "share"), ("spans", "spans", "count"))),
    "letters": ("First letters", (
        ("first_letter", "letter", "text"), ("mean_absorption_fraction", "absorption", "share"),
        ("full_absorption_rate", "full absorption", "share"), ("num_split_features", "main latents", "count"),
        ("probe_f1", "F1 of the probe", "number"), ("num_probe_true_positives", "words", "count"))),
    "most_split": ("Latents with the most parts in the larger SAE", (
        ("latent", "latent of the smaller SAE", "count"), ("parts", "parts", "count"))),
    "latents": ("Latents and their patterns", (
        ("latent", "latent", "latent"), ("patterns", "patterns (* is any token)", "patterns"),
        ("precision", "precision", "share"), ("recall", "recall", "share"),
        ("top_precision", "precision, top", "share"),
        ("top_recall", "recall, top", "share"), ("rule_f1", "F1 of its rule", "number"),
        ("firings", "firings", "count"))),
    "firings": ("Firings that were switched off", (
        ("latent", "latent", "latent"), ("share.latent", "effective share", "share"),
        ("share.channel", "one channel", "share"), ("share.random", "random direction", "share"),
        ("kl.latent", "KL", "number"), ("kl.random", "KL, random direction", "number"),
        ("delta_ce.latent", "ΔCE", "number"))),
}


def tables(detail: dict[str, Any], sae_id: str) -> list[DetailTable]:
    """Return the tables that a measure's detail has; what is not understood is left out."""
    found = []
    for key, (title, columns) in _TABLES.items():
        rows = detail.get(key)
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            found.append(_table(title, columns, rows, sae_id))
    return found


def _table(title: str, columns: _Columns, rows: Sequence[dict[str, Any]], sae_id: str) -> DetailTable:
    used = [column for column in columns if any(_at(row, column[0]) is not None for row in rows)]
    cells = [[_cell(_at(row, path), kind, sae_id) for path, _, kind in used] for row in rows]
    return DetailTable(title, [head for _, head, _ in used], cells[:_SHOWN], cells[_SHOWN:])


def _at(row: Any, path: str) -> Any:
    for name in path.split("."):
        row = row.get(name) if isinstance(row, dict) else None
    return row


def _cell(value: Any, kind: str, sae_id: str) -> DetailCell:
    if kind == "patterns":
        return DetailCell(_patterns(value) or "–")
    if kind == "text":
        return DetailCell(str(value) if value is not None else "–")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return DetailCell("–", numeric=True)
    if kind == "latent":
        return DetailCell(str(int(value)), f"/{sae_id}/{int(value)}", numeric=True)
    written = whole(value) if kind == "count" else percent(value) if kind == "share" else number(value, 3)
    return DetailCell(written, numeric=True)


def _patterns(value: Any) -> str:
    """Write the first token patterns, each in quotes; a wildcard is an asterisk."""
    patterns = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    shown = ["“" + "".join("*" if token is None else str(token) for token in one.get("tokens") or []) + "”"
             + (" at the start" if one.get("at_start") else "") for one in patterns[:_LISTED]]
    return ", ".join(shown) + (f" and {len(patterns) - _LISTED} more" if len(patterns) > _LISTED else "")
