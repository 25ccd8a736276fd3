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

from app import labels
from sae.listing import TOKEN_SORTS, Filters
from sae.records import Token
from sae.store import Build

_TOKEN_ID = re.compile(r"#(\d{1,9})")


@dataclass(frozen=True)
class ListQuery:
    """`token` is text to look for among the tokens, or `#<id>`; `label` text in labels and notes."""

    sort: str = ""
    descending: bool = False
    flags: frozenset[str] = frozenset()
    density: str = ""
    token: str = ""
    label: str = ""
    starred: bool = False

    @classmethod
    def read(cls, params: QueryParams) -> ListQuery:
        """From a request's query; names it does not know are passed over."""
        return cls(
            sort=params.get("sort", ""), descending=params.get("dir") == "desc",
            flags=frozenset(params.getlist("flag")), density=params.get("density", ""),
            token=params.get("token", "")[:200], label=params.get("label", "").strip()[:200],
            starred=params.get("starred") == "1")

    def string(self, **changes: Any) -> str:
        """The query string after `changes`, with its `?`; empty for the plain list."""
        new = replace(self, **changes)
        pairs = [("sort", new.sort), ("dir", "desc" if new.descending else "")]
        pairs += [("flag", flag) for flag in sorted(new.flags)]
        pairs += [("density", new.density), ("token", new.token), ("label", new.label),
                  ("starred", "1" if new.starred else "")]
        text = urlencode([(name, value) for name, value in pairs if value])
        return f"?{text}" if text else ""

    def toggled(self, flag: str) -> str:
        """The query string with this flag put in or taken out."""
        return self.string(flags=self.flags ^ {flag})

    def sorted_by(self, sort: str) -> str:
        """For a column's head: sort by it, largest first; once more, the other way round."""
        first = sort != "latent"
        return self.string(sort=sort, descending=not self.descending if self.sort == sort else first)

    @property
    def plain(self) -> bool:
        """Whether every latent is listed."""
        return not (self.flags or self.density or self.token or self.label or self.starred)


@dataclass(frozen=True)
class Resolved:
    """A list query against a build: what the store is asked.  `tokens`: those the text may mean, best first."""

    sort: str
    descending: bool
    filters: Filters
    token: int | None
    tokens: list[Token] = field(default_factory=list)


def resolve(query: ListQuery, build: Build, db: Session, sae_id: str) -> Resolved:
    """Look up labels and tokens.  Raises UserError for flags, densities or sorts that do not exist."""
    among = None
    if query.label:
        among = frozenset(row.latent for row in labels.search(db, query.label, sae_id))
    if query.starred:
        stars = labels.starred(db, sae_id)
        among = stars if among is None else among & stars
    tokens: list[Token] = []
    if match := _TOKEN_ID.fullmatch(query.token):
        tokens = list(build.token_info([int(match[1])]).values())
    elif query.token:
        tokens = build.find_tokens(query.token)
    if query.token and not tokens:  # no such token, so no latent fires on it
        among = frozenset()
    token = tokens[0].token if tokens else None
    sort, descending = query.sort, query.descending
    if not sort or (sort in TOKEN_SORTS and token is None):
        sort, descending = ("token", True) if token is not None else ("latent", False)
    return Resolved(sort, descending, Filters(query.flags, query.density, among), token, tokens)
