"""SAEs side by side: the table of the home page, and which SAE is the best one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from app.db.tables import Sae
from app.pages.provenance import architecture_name, training_tokens

Value = float | str | None


@dataclass(frozen=True)
class Column:
    """A column of the table, whose `?` says `definition`.  With `best_high` higher values are better."""

    key: str
    name: str
    of: Callable[[Sae], Value]
    form: str = ""  # a filter of app/render/numbers.py, "number:3" with an argument; "" for text
    definition: str = ""
    best_high: bool = False


def _metric(key: str) -> Callable[[Sae], Value]:
    def read(sae: Sae) -> Value:
        value = (sae.config.get("metrics") or {}).get(key)
        return float(value) if isinstance(value, int | float) else None
    return read


COLUMNS = (
    Column("sae", "SAE", lambda sae: sae.id),
    Column("site", "site", lambda sae: sae.hook),
    Column("architecture", "architecture", lambda sae: architecture_name(sae.architecture)),
    Column("n_latents", "L", lambda sae: sae.n_latents, "whole", "number of latents", True),
    Column("k", "k", lambda sae: sae.k, "whole", "active latents on a token that the SAE was trained for"),
    Column("trained", "trained on", training_tokens, "compact",
           "tokens of text in training; an SAE that is trained for longer reconstructs better", True),
    Column("fvu", "FVU", _metric("fvu"), "number:3",
           "fraction of variance unexplained on held-out text; 0 is a perfect reconstruction"),
    Column("delta_ce", "ΔCE", _metric("delta_ce"), "number:3",
           "rise of the language model's loss, in nats per token, when the reconstruction replaces the activations"),
    Column("l0", "L0", _metric("l0"), "number:1", "active latents on a token, on average over held-out text"),
    Column("dead", "dead", _metric("dead_fraction"), "percent", "share of latents that never fired on held-out text"),
    Column("indexed", "indexed", lambda sae: float(sae.current_build is not None), "",
           "whether there is an index of contexts, which is what makes latents browsable", True),
)
_BY_KEY = {column.key: column for column in COLUMNS}
GROUPS: dict[str, Callable[[Sae], str]] = {
    "model": lambda sae: sae.model, "layer": lambda sae: f"{sae.model}, layer {sae.layer}",
    "architecture": lambda sae: architecture_name(sae.architecture)}
HINTS = {column.key: column.definition for column in COLUMNS}


@dataclass(frozen=True)
class SaeTable:
    """SAEs in the order, choice and groups that their page's address says: `?sort=l0&filter=topk&group=model`.

    `text` has words that an SAE's name, site or architecture must contain, all of them.  `group` is a name of GROUPS.
    """

    saes: list[Sae]
    sort: str
    descending: bool
    text: str = ""
    group: str = ""
    n_all: int = 0

    @classmethod
    def read(cls, saes: Sequence[Sae], query: Mapping[str, str]) -> SaeTable:
        """Sort as the query says; without a valid `sort` by FVU, so that the best SAE is first."""
        key = query.get("sort", "")
        key = key if key in _BY_KEY else "fvu"
        descending = query.get("dir") == "desc" if "dir" in query else _BY_KEY[key].best_high
        text, group = query.get("filter", "").strip()[:200], query.get("group", "")
        chosen = [sae for sae in saes if _contains(sae, text.casefold().split())]
        group = group if group in GROUPS else ""
        return cls(in_order(chosen, key, descending), key, descending, text, group, len(saes))

    def href(self, column: Column) -> str:
        """Return the address that sorts by a column, the other way round where it is sorted by already."""
        descending = not self.descending if column.key == self.sort else column.best_high
        kept = {"filter": self.text, "group": self.group}
        rest = urlencode({name: value for name, value in kept.items() if value})
        return f"?sort={column.key}&dir={'desc' if descending else 'asc'}{'&' if rest else ''}{rest}"

    def groups(self) -> list[tuple[str, list[Sae]]]:
        """Return the SAEs of each group under its name, in the order of the first of each; one group without a name."""
        found: dict[str, list[Sae]] = {}
        for sae in self.saes:
            found.setdefault(GROUPS[self.group](sae) if self.group else "", []).append(sae)
        return list(found.items())

    def cells(self, sae: Sae) -> list[tuple[Column, Value]]:
        """Return the row of an SAE, without its name and whether it is indexed."""
        return [(column, column.of(sae)) for column in COLUMNS[1:-1]]


def in_order(saes: Sequence[Sae], key: str, descending: bool = False) -> list[Sae]:
    """Return SAEs sorted by a column; those without a value come last either way."""
    of = _BY_KEY[key].of
    known = [sae for sae in saes if of(sae) is not None]
    unknown = [sae for sae in saes if of(sae) is None]
    return sorted(known, key=lambda sae: _comparable(of(sae)), reverse=descending) + unknown


def best(saes: Sequence[Sae]) -> Sae | None:
    """Return the SAE to begin with: of those with an index and weights the one with the lowest FVU."""
    browsable = [sae for sae in saes if sae.current_build]
    return next(iter(in_order([sae for sae in browsable if not sae.weightless], "fvu") or browsable), None)


def _contains(sae: Sae, words: Sequence[str]) -> bool:
    said = f"{sae.id} {sae.hook} {architecture_name(sae.architecture)}".casefold()
    return all(word in said for word in words)


def _comparable(value: Value) -> Any:
    return value.lower() if isinstance(value, str) else value
