"""The latent table's state, all of it in the URL: sort, filters, token, label.

The same query string stands in the links to single latents, so that ← and → there follow the
order of the table one came from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from sqlalchemy.orm import Session
from starlette.datastructures import QueryParams

from app.library import labels, latent_effects
from sae.store.build import Build
from sae.store.latent_query import SCORE_SORT, TOKEN_SORTS, Filters
from sae.store.records import Token

LABEL_SORT = "label"  # by what people wrote, which the build does not hold
_TOKEN_ID = re.compile(r"#([0-9]{1,9})")


@dataclass(frozen=True)
class ListQuery:
    """`token` is text to look for among the tokens, or `#<id>`; `logit` the same, for tokens whose
    logit a latent raises; `label` text in labels and notes."""

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

    @classmethod
    def read(cls, params: QueryParams) -> ListQuery:
        """From a request's query; names it does not know are passed over."""
        return cls(
            sort=params.get("sort", ""), descending=params.get("dir") == "desc",
            flags=frozenset(params.getlist("flag")), density=params.get("density", ""),
            token=params.get("token", "")[:200], logit=params.get("logit", "")[:200],
            label=params.get("label", "").strip()[:200], labelled=params.get("labelled") == "1",
            tag=params.get("tag", "")[:200],
            starred=params.get("starred") == "1")

    def string(self, **changes: Any) -> str:
        """The query string after `changes`, with its `?`; empty for the plain list."""
        new = replace(self, **changes)
        pairs = [("sort", new.sort), ("dir", "desc" if new.descending else "")]
        pairs += [("flag", flag) for flag in sorted(new.flags)]
        pairs += [("density", new.density), ("token", new.token), ("logit", new.logit), ("label", new.label),
                  ("labelled", "1" if new.labelled else ""), ("tag", new.tag), ("starred", "1" if new.starred else "")]
        text = urlencode([(name, value) for name, value in pairs if value])
        return f"?{text}" if text else ""

    def toggled(self, flag: str) -> str:
        """The query string with this flag put in or taken out."""
        return self.string(flags=self.flags ^ {flag})

    def sorted_by(self, sort: str) -> str:
        """For a column's head: sort by it, largest first (labels from A); once more, the other way round."""
        first = sort not in ("latent", LABEL_SORT)
        return self.string(sort=sort, descending=not self.descending if self.sort == sort else first)

    @property
    def of_people(self) -> bool:
        """Whether the list depends on what people wrote, and not on the build alone."""
        return bool(self.label or self.labelled or self.tag or self.starred or self.sort == LABEL_SORT)

    @property
    def plain(self) -> bool:
        """Whether every latent is listed."""
        return not (self.flags or self.density or self.token or self.logit or self.label or self.labelled or self.tag
                    or self.starred)


@dataclass(frozen=True)
class Resolved:
    """A list query against a build: what the store is asked.

    `scores` are the output scores that are known; `tokens`: those the text may mean, best first.
    """

    sort: str
    descending: bool
    filters: Filters
    token: int | None
    scores: dict[int, float]
    tokens: list[Token] = field(default_factory=list)

    @property
    def key(self) -> str:
        """What the store sorts by."""
        return SCORE_SORT if self.sort == LABEL_SORT else self.sort


def resolve(query: ListQuery, build: Build, db: Session, sae_id: str) -> Resolved:
    """Look up labels and tokens.  Raises UserError for flags, densities or sorts that do not exist."""
    sets = []
    if query.label:
        sets.append(frozenset(row.latent for row in labels.search(db, query.label, sae_id)))
    if query.labelled:
        sets.append(frozenset(labels.texts(db, sae_id)))
    if query.tag:
        sets.append(labels.tagged(db, sae_id).get(query.tag, frozenset()))
    if query.starred:
        sets.append(labels.starred(db, sae_id))
    tokens = _tokens(query.token, build)
    if query.token and not tokens:  # no such token, so no latent fires on it
        sets.append(frozenset())
    among = frozenset.intersection(*sets) if sets else None
    logits = frozenset(t.token for t in _tokens(query.logit, build)) if query.logit else None
    token = tokens[0].token if tokens else None
    sort, descending = query.sort, query.descending
    scores = latent_effects.scores(db, sae_id, build.id)
    keys = _places(labels.texts(db, sae_id)) if sort == LABEL_SORT else scores
    if not sort or (sort in TOKEN_SORTS and token is None) or (sort in (SCORE_SORT, LABEL_SORT) and not keys):
        sort, descending = ("token", True) if token is not None else ("latent", False)
    filters = Filters(query.flags, query.density, among, logits, tuple(keys.items()))
    return Resolved(sort, descending, filters, token, scores, tokens)


def _places(texts: dict[int, str]) -> dict[int, float]:
    """The place of each label in the alphabet; latents without one come last in either direction."""
    order = {text: place for place, text in enumerate(sorted({text.casefold() for text in texts.values()}))}
    return {latent: float(order[text.casefold()]) for latent, text in texts.items()}


def _tokens(text: str, build: Build) -> list[Token]:
    """What `text` may mean among the tokens, best first; `#<id>` means one."""
    if match := _TOKEN_ID.fullmatch(text):
        return [build.vocabulary[int(match[1])]]
    return build.find_tokens(text) if text else []
