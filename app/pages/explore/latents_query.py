"""The state of the latent table, all of it in the URL: sort, filters, token, label.

The links to single latents carry the same query string, so that ← and → there follow the order of the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np
from sqlalchemy.orm import Session
from starlette.datastructures import QueryParams

from app.library import explanations, labels, latent_effects
from app.render.latent_words import SHOWN_F1
from sae.store.build import Build
from sae.store.latent_query import ALIVE, DENSITIES, LOGIT_SORT, SCORE_SORT, SORTS, TOKEN_SORTS, Filters
from sae.store.latent_search import rule_scores
from sae.store.records import FLAGS, Token

EXPLAINED_SORT = "explained"  # by the quality of the best explanation, which the build does not contain
LABEL_SORT = "label"  # by the labels, which the build does not contain
_ALIASES = {"living": ALIVE}  # the flag's old name, accepted for one release
COLUMNS = frozenset({*SORTS, SCORE_SORT, "top"}) - TOKEN_SORTS - {"latent"}  # those that may be chosen
EXPLAINED = ("any", "person", "model", "rule", "none")
_OR_RULED = ("any", "rule", "none")  # those in which a good rule of the build counts as an explanation
_TOKEN_ID = re.compile(r"#([0-9]{1,9})")


@dataclass(frozen=True)
class ListQuery:
    """Sort and filters as the URL names them.

    `token` is text to look for among the tokens, or `#<id>`.  `logit` names in the same way a token whose logit a
    latent raises, and `label` is text in labels, notes and explanations.
    """

    sort: str = ""
    descending: bool = False
    flags: frozenset[str] = frozenset()
    density: str = ""
    token: str = ""
    logit: str = ""
    label: str = ""
    labelled: bool = False
    tag: str = ""
    starred: bool = False
    explained: str = ""  # rule, person, model, any or none: the explanations that a latent has
    columns: tuple[str, ...] = ()  # the columns that are shown besides the number and the context; (): the usual ones

    @classmethod
    def read(cls, params: QueryParams) -> ListQuery:
        """Read a request's query; unknown names are skipped."""
        return cls(
            sort=params.get("sort", ""), descending=params.get("dir") == "desc",
            flags=frozenset(_ALIASES.get(flag, flag) for flag in params.getlist("flag")),
            density=params.get("density", ""),
            token=params.get("token", "")[:200], logit=params.get("logit", "")[:200],
            label=params.get("label", "").strip()[:200], labelled=params.get("labelled") == "1",
            tag=params.get("tag", "")[:200],
            starred=params.get("starred") == "1", explained=params.get("explained", "")[:20],
            columns=_columns(params.getlist("columns")))

    def string(self, **changes: Any) -> str:
        """Return the query string after `changes`, with its `?`; empty for the plain list."""
        new = replace(self, **changes)
        pairs = [("sort", new.sort), ("dir", "desc" if new.descending else "")]
        pairs += [("flag", flag) for flag in sorted(new.flags)]
        pairs += [("density", new.density), ("token", new.token), ("logit", new.logit), ("label", new.label),
                  ("labelled", "1" if new.labelled else ""), ("tag", new.tag), ("starred", "1" if new.starred else ""),
                  ("explained", new.explained), ("columns", ",".join(new.columns))]
        text = urlencode([(name, value) for name, value in pairs if value], safe=",")
        return f"?{text}" if text else ""

    def plus(self, **extra: object) -> str:
        """Return the query string with further parameters, which are no part of the list's state."""
        text, more = self.string(), urlencode(extra)
        return f"{text}&{more}" if text else f"?{more}"

    def fields(self) -> list[tuple[str, str]]:
        """Return what a form must contain to keep the list's state except its columns: pairs (name, value)."""
        return parse_qsl(self.string(columns=()).removeprefix("?"))

    def toggled(self, flag: str) -> str:
        """Return the query string with this flag added or removed."""
        return self.string(flags=self.flags ^ {flag})

    def sorted_by(self, sort: str) -> str:
        """Return the query string of a column header: largest first (labels from A), and reversed at a second click."""
        first = sort not in ("latent", LABEL_SORT)
        return self.string(sort=sort, descending=not self.descending if self.sort == sort else first)

    @property
    def of_people(self) -> bool:
        """Return whether the list depends on labels, and not on the build alone."""
        return bool(self.label or self.labelled or self.tag or self.starred or self.explained
                    or self.sort in (LABEL_SORT, EXPLAINED_SORT))

    @property
    def plain(self) -> bool:
        """Return whether every latent is listed."""
        return not (self.flags or self.density or self.token or self.logit or self.label or self.labelled or self.tag
                    or self.starred or self.explained)

    def usable(self) -> tuple[ListQuery, list[str]]:
        """Return the query without the values that do not exist, and a message for each of those."""
        flags, sorts = {*FLAGS, ALIVE}, {"", *SORTS, LABEL_SORT, EXPLAINED_SORT, SCORE_SORT, LOGIT_SORT}
        faults = [f"flag: there is no kind {flag!r} of latents" for flag in sorted(self.flags - flags)]
        if self.density and self.density not in DENSITIES:
            faults.append(f"density: {self.density!r} is not one of {', '.join(DENSITIES)}")
        if self.sort not in sorts:
            faults.append(f"sort: the table has no {self.sort!r} to sort by")
        if self.explained and self.explained not in EXPLAINED:
            faults.append(f"explained: {self.explained!r} is not one of {', '.join(EXPLAINED)}")
        faults += [f"columns: the table has no column {name!r}" for name in self.columns if name not in COLUMNS]
        return replace(
            self, explained=self.explained if self.explained in EXPLAINED else "", flags=self.flags & flags,
            density=self.density if self.density in DENSITIES else "",
            columns=tuple(name for name in self.columns if name in COLUMNS),
            sort=self.sort if self.sort in sorts else ""), faults


def _columns(values: list[str]) -> tuple[str, ...]:
    """Return the names of columns, of fields of a form or separated by commas, each once."""
    return tuple(dict.fromkeys(name for value in values for name in value[:400].split(",") if name))


@dataclass(frozen=True)
class Resolved:
    """A list query against a build: the sort and filters that the store receives.

    `scores` are the known output scores.  `tokens` and `logit_tokens` are the tokens that the texts may mean, best
    first; the first of each is filtered by.  `sets` are the latents that each filter by people leaves, by its name.
    """

    sort: str
    descending: bool
    filters: Filters
    token: int | None
    scores: dict[int, float]
    tokens: list[Token] = field(default_factory=list)
    logit_tokens: list[Token] = field(default_factory=list)
    sets: dict[str, frozenset[int]] = field(default_factory=dict)

    def without(self, name: str) -> Filters:
        """Return the filters without one of those by people."""
        return replace(self.filters, among=_common({key: some for key, some in self.sets.items() if key != name}),
                       ruled=None if name == "explained" else self.filters.ruled)

    @property
    def key(self) -> str:
        """Return the name of the sort in the store."""
        return SCORE_SORT if self.sort in (LABEL_SORT, EXPLAINED_SORT) else self.sort


def resolve(
    query: ListQuery, build: Build, db: Session, sae_id: str, starred: frozenset[int] = frozenset(),
) -> Resolved:
    """Look up labels and tokens; `starred` are the reader's starred latents.

    Raises UserError for flags, densities or sorts that do not exist.
    """
    tokens, logit_tokens = _tokens(query.token, build), _tokens(query.logit, build)
    token, logit = (found[0].token if found else None for found in (tokens, logit_tokens))
    scores = latent_effects.scores(db, sae_id, build.id)
    sort, keys = query.sort, scores
    if sort == LABEL_SORT:
        keys = _places(labels.texts(db, sae_id))
    explained = explanations.qualities(db, sae_id) if query.explained or sort == EXPLAINED_SORT else {}
    if sort == EXPLAINED_SORT:
        keys = {latent: best for latent, kinds in explained.items() if (best := max(kinds.values())) >= 0}
    needs = dict.fromkeys(TOKEN_SORTS, token is not None) | dict.fromkeys(
        (SCORE_SORT, LABEL_SORT, EXPLAINED_SORT), bool(keys))
    needs[EXPLAINED_SORT] |= sort == EXPLAINED_SORT and bool(build.kept(well_ruled).any())
    needs[LOGIT_SORT] = logit is not None
    descending = query.descending
    if not sort or not needs.get(sort, True):
        default = "lift" if token is not None else LOGIT_SORT if logit is not None else "latent"
        sort, descending = default, default != "latent"
    missing = (bool(query.token) and token is None) or (bool(query.logit) and logit is None)
    sets = _sets(query, db, sae_id, missing, explained, starred)
    filters = Filters(
        query.flags, query.density, _common(sets), logit, tuple(keys.items()),
        rule_scores=SHOWN_F1 if sort == EXPLAINED_SORT else None, ruled=_ruled(query.explained, explained))
    return Resolved(sort, descending, filters, token, scores, tokens, logit_tokens, sets)


def _sets(
    query: ListQuery, db: Session, sae_id: str, missing: bool, explained: dict[int, dict[str, float]],
    starred: frozenset[int],
) -> dict[str, frozenset[int]]:
    """Return the latents that each filter by people leaves, by its name.  `missing`: a token that does not exist."""
    sets = {"token": frozenset[int]()} if missing else {}
    if query.label:
        sets["label"] = explanations.said_of(db, sae_id, query.label)
    if query.labelled:
        sets["labelled"] = frozenset(labels.texts(db, sae_id))
    if query.tag:
        sets["tag"] = labels.tagged(db, sae_id).get(query.tag, frozenset())
    if query.starred:
        sets["starred"] = starred
    if query.explained and query.explained not in _OR_RULED:
        sets["explained"] = frozenset(latent for latent, kinds in explained.items() if query.explained in kinds)
    return sets


def _common(sets: Mapping[str, frozenset[int]]) -> frozenset[int] | None:
    """Return the latents that all filters leave; None without any filter."""
    return frozenset.intersection(*sets.values()) if sets else None


def _places(texts: dict[int, str]) -> dict[int, float]:
    """Return the place of each label in the alphabet; latents without one come last in either direction."""
    order = {text: place for place, text in enumerate(sorted({text.casefold() for text in texts.values()}))}
    return {latent: float(order[text.casefold()]) for latent, text in texts.items()}


def _tokens(text: str, build: Build) -> list[Token]:
    """Return the tokens that `text` may mean, best first; `#<id>` means one."""
    if match := _TOKEN_ID.fullmatch(text):
        return [build.vocabulary[int(match[1])]]
    return build.find_tokens(text) if text else []


def _ruled(wanted: str, explained: dict[int, dict[str, float]]) -> tuple[float, frozenset[int], bool] | None:
    """Return the filter by explanations in which a good rule of the build counts as one; None for the other filters."""
    if wanted not in _OR_RULED:
        return None
    return SHOWN_F1, frozenset(latent for latent, kinds in explained.items()
                               if wanted != "rule" or "rule" in kinds), wanted != "none"


def well_ruled(build: Build) -> np.ndarray:
    """Return whether each latent has a good rule, [L].  It serves `Build.kept`."""
    return rule_scores(build) >= SHOWN_F1  # type: ignore[no-any-return]
