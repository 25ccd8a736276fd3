"""The columns of the latent table: the usual ones depend on filters and sort, and a reader may choose others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from app.pages.explore.latents_query import EXPLAINED_SORT, LABEL_SORT, Resolved
from sae.store.latent_query import LOGIT_SORT, SCORE_SORT
from sae.store.records import LatentRow

KNOWN_SHARE = 0.5  # of the rows shown have an output score: then it is worth a column


@dataclass(frozen=True)
class Column:
    """A column: `key` names its cells in the template, `sort` its name in the URL, `said` explains it.

    `css` is the class of its cells, and `col-<key>` the class of its width.  A phone leaves out columns that are
    `extra`.  `digits` are the digits of the number that `value` reads from a row (None: the number that sorts).
    """

    key: str
    name: str
    sort: str = ""
    css: str = "num"
    said: str = ""
    digits: int = 2
    extra: bool = True
    value: Callable[[LatentRow], float | None] | None = None

    @property
    def id(self) -> str:
        """Return its name in an address."""
        return self.sort or self.key

    def number(self, row: LatentRow) -> float | None:
        """Return the number of a latent in this column."""
        return self.value(row) if self.value else row.sort_value


_LATENT = Column("latent", "latent", "latent", extra=False)
_TEXT = Column("text", "label or rule · strongest context", LABEL_SORT, "", extra=False)
_ON_TOKEN = replace(_TEXT, name="label or rule · context on the token")
_DENSITY = Column("density", "density", "density", said="Share of the counted tokens on which the latent fires",
                  value=lambda row: row.density)
_MAX = Column("max", "max", "max", said="The largest activation in the text that was read",
              value=lambda row: row.max_act)
_TOP = Column("top", "top logits", "", "",
              said="The tokens whose logit rises most when the latent is added to the residual stream")
_PLAIN = (
    Column("kurtosis", "logit kurtosis", "kurtosis",
           said="Kurtosis of the latent's effect on the logits over the vocabulary. A high one means that it promotes "
                "few tokens", value=lambda row: row.logit_kurtosis),
    Column("phi", "strongest co-firing φ", "phi",
           said="The highest correlation φ of its firing with the firing of another latent. For a latent with more "
                "than 64 firings it is estimated from 64 of them; the latent's page has its interval",
           value=lambda row: row.max_phi),
)
_SCORE = Column("score", "output score", SCORE_SORT,
                said="How much steering with the latent moves its own top tokens, as far as it was measured")
_BY_TOKEN = (
    Column("lift", "lift", "lift", said="P(token | latent fires) / P(token): how much more often the token occurs "
           "where the latent fires than anywhere"),
    Column("firings", "firings on it", "token", said="How many of the latent's firings are on this token"),
)
_BY_LOGIT = Column("logit", "logit", LOGIT_SORT,
                   said="How much the token's logit rises when one unit of the latent is added")
# Sorts without a usual column, which get one when the table is sorted by them or a reader chooses them.
MORE_SORTS = (
    Column("sorted", "mean activation", "mean", said="Mean activation over the tokens on which the latent fires",
           value=lambda row: row.mean_act),
    Column("sorted", "logit skew", "logit_skew", said="Skew of the latent's effect on the logits over the vocabulary",
           value=lambda row: row.logit_skew),
    Column("sorted", "activation skew", "skew", said="Skew of the latent's activations where it fires",
           value=lambda row: row.skew_act),
    Column("sorted", "rule F1", "rule", said="F1 of the best short rule for its firing, on held-out contexts",
           value=lambda row: row.rule.f1 if row.rule else None),
    Column("sorted", "neighbour cosine", "cosine", digits=3,
           said="Cosine of its decoder row with the nearest one of another latent", value=lambda row: row.nearest_cos),
    Column("sorted", "mean L0", "l0", digits=1, said="Mean number of active latents on the tokens on which it fires",
           value=lambda row: row.mean_l0),
    Column("sorted", "mean position", "position", digits=1,
           said="Mean position in the context of the tokens on which it fires", value=lambda row: row.mean_position),
)
_EXPLAINED = Column(
    "sorted", "explanation F1", EXPLAINED_SORT,
    said="F1 of its best explanation, or its score where it has no F1, on text that it was not made from")
_TOKEN_MAX = Column("sorted", "max on the token", "token_max", said="The latent's largest activation on this token")
# The columns that a reader may choose, by their names in an address.
CHOOSABLE = {column.id: column for column in (_DENSITY, _MAX, *MORE_SORTS[:1], *_PLAIN, _SCORE, *MORE_SORTS[1:], _TOP)}


def table_columns(asked: Resolved, rows: Sequence[LatentRow], chosen: Sequence[str] = ()) -> list[Column]:
    """Return the columns of a page of the table; the number that it is sorted by is always one of them.

    `chosen` are names of CHOOSABLE, in their order; () means the usual columns.
    """
    found = list(_BY_TOKEN) if asked.token is not None else []
    if asked.filters.logit is not None:
        found.append(_BY_LOGIT)
    if chosen:
        found += [replace(CHOOSABLE[name], extra=False) for name in chosen]
    else:
        found += _usual(asked, rows)
    text = _TEXT if asked.token is None else _ON_TOKEN
    shown = {column.sort for column in (_LATENT, text, *found)}
    more = (*MORE_SORTS, *_PLAIN, _DENSITY, _MAX, _SCORE, _EXPLAINED, _TOKEN_MAX)
    extra = [column for column in more if column.sort == asked.sort not in shown]
    columns = [_LATENT, text, *extra, *found]
    main = asked.sort if asked.sort not in ("latent", LABEL_SORT) else "density"
    return [replace(column, extra=False) if column.sort == main else column for column in columns]


def _usual(asked: Resolved, rows: Sequence[LatentRow]) -> list[Column]:
    """Return the columns that are shown where a reader has chosen none."""
    found = [_DENSITY, _MAX]
    if asked.token is None and asked.filters.logit is None:
        found += _PLAIN
    scored = sum(row.latent in asked.scores for row in rows)
    if asked.sort == SCORE_SORT or scored > KNOWN_SHARE * len(rows):
        found.append(_SCORE)
    return [*found, _TOP]


def sort_names(asked: Resolved, explained: bool = False) -> dict[str, str]:
    """Return all that the table can be sorted by, with its name."""
    columns = [_LATENT, _DENSITY, _MAX, *_PLAIN, *MORE_SORTS]
    if asked.token is not None:
        columns += [*_BY_TOKEN, _TOKEN_MAX]
    if asked.filters.logit is not None:
        columns.append(_BY_LOGIT)
    if asked.scores:
        columns.append(_SCORE)
    if explained:
        columns.append(_EXPLAINED)
    return {column.sort: column.name for column in columns} | {LABEL_SORT: "label"}
