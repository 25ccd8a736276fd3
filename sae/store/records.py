"""Records that a build's queries return.  No torch.

Activations are in unit-decoder units; `token` is a vocabulary id, and `position` is absolute in its context (BOS is
0).  `sae/store/schema.py` defines every number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sae.store.intervals import share_interval

T = TypeVar("T")

DENSE_DENSITY = 0.1
RARE_TOKENS = 10
SINGLE_TOKEN_SHARE = 0.9
POSITION_SHARE = 0.5
CLASS_SHARE = 0.9
NEAR = 0.1  # a near miss lacks less than this share of the pre-activation that it takes to fire

# The meaning of each flag of a latent: the index computes the flags by these numbers, and pages show the texts.
FLAGS = {
    "dead": "fired on none of the counted tokens",
    "dense": f"fires on more than {DENSE_DENSITY:.0%} of the counted tokens",
    "rare": f"fired, but on fewer than {RARE_TOKENS} tokens",
    "single_token": f"at least {SINGLE_TOKEN_SHARE:.0%} of its firings are on one token of the vocabulary "
                    f"(of {RARE_TOKENS} firings or more)",
    "position_bound": f"at least {POSITION_SHARE:.0%} of its firings are at one position of the context "
                      f"(of {RARE_TOKENS} firings or more; past 256 positions, in one 256th of the context)",
    "punctuation": f"at least {CLASS_SHARE:.0%} of its firings are on punctuation (of {RARE_TOKENS} firings or more)",
    "number": f"at least {CLASS_SHARE:.0%} of its firings are on numbers (of {RARE_TOKENS} firings or more)",
    "capital": f"at least {CLASS_SHARE:.0%} of its firings are on tokens that begin with a capital letter "
               f"(of {RARE_TOKENS} firings or more)",
}

# Classes of token positions that a rule may name (`sae.index.token_classes`), and the text that follows "fires".
CLASSES = {
    "number": "on numbers",
    "punctuation": "on punctuation",
    "capital": "on tokens that begin with a capital letter",
    "newline": "on line breaks",
    "space": "on white space",
    "inside_word": "inside words, past their first token",
    "line_start": "on the first token of a line",
    "comment": "between a # and the end of its line",
    "triple_quotes": "between triple quotes",
    "brackets": "inside round brackets",
    "context_start": "on the first token of a context",
}


@dataclass(frozen=True)
class Token:
    """A vocabulary entry: its bytes, and the number of its occurrences among the counted tokens.

    `n` is None if the token is known from an imported file alone; its id is then arbitrary.
    """

    token: int
    piece: bytes
    special: bool
    n: int | None


class Vocabulary(dict[int, Token]):
    """Tokens by their id; an unknown id has no bytes."""

    def __init__(self, *tokens: Iterable[tuple[int, Token]]) -> None:
        super().__init__(*tokens)
        self._kept: dict[Callable[[Vocabulary], Any], Any] = {}

    def kept(self, make: Callable[[Vocabulary], T]) -> T:
        """Return what `make` makes of this vocabulary; it is made once."""
        if make not in self._kept:
            self._kept[make] = make(self)
        made: T = self._kept[make]
        return made

    def __missing__(self, token: int) -> Token:
        return Token(token, b"", False, 0)


@dataclass(frozen=True)
class TokenFirings:
    """The number of times that a latent fires on (or just before) a token, and the lift over the token's own share."""

    token: int
    n: int
    lift: float | None
    max_act: float | None


@dataclass(frozen=True)
class CofiringLatent:
    """Another latent that is active on a share `given` of the tokens on which this one fires.

    `lift` is `given` over the other latent's own density; `phi` is the correlation of the two firing.
    """

    latent: int
    given: float
    lift: float
    phi: float
    given_interval: tuple[float, float] | None = None  # of 95%; None where `given` is exact, or n is unknown

    @property
    def lift_interval(self) -> tuple[float, float] | None:
        """Return the 95% interval of `lift`, in which `given` alone is estimated; None where it is exact."""
        if self.given_interval is None:
            return None
        low, high = self.given_interval
        return low * self.lift / self.given, high * self.lift / self.given

    @property
    def phi_interval(self) -> tuple[float, float] | None:
        """Return the 95% interval of `phi`, which is linear in `given`; None where it is exact, or `lift` is 1."""
        density = self.given / self.lift  # of the other latent
        if self.given_interval is None or abs(self.given - density) < 1e-6 * density:
            return None
        low, high = ((end - density) * self.phi / (self.given - density) for end in self.given_interval)
        return max(low, -1.0), min(high, 1.0)


@dataclass(frozen=True)
class Rule:
    """A short description of when a latent fires, scored on contexts other than those it was found on.

    `kind` is token, previous, next (these use `tokens`) or class (which uses `class_name`).
    """

    kind: str
    tokens: list[int]
    class_name: str | None
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Latent:
    """All facts that a build has about one latent, except its contexts.  None means unknown, in imported builds only.
    """

    latent: int
    n_tokens: int | None
    n_contexts: int | None
    density: float | None
    max_act: float | None
    mean_act: float | None
    std_act: float | None
    hist: list[int] | None
    mean_position: float | None
    flags: tuple[str, ...]  # in alphabetical order
    top_tokens: list[TokenFirings]
    next_tokens: list[TokenFirings]
    logit_pos: list[tuple[int, float]]
    logit_neg: list[tuple[int, float]]
    logit_hist: list[int] | None
    logit_std: float | None
    logit_skew: float | None
    logit_kurtosis: float | None
    neighbours: list[tuple[int, float]]
    encoder_norm: float | None
    encoder_decoder_cos: float | None
    mean_l0: float | None
    skew_act: float | None = None
    n_first: int | None = None
    n_last: int | None = None
    encoder_neighbours: list[tuple[int, float]] = field(default_factory=list)
    together: list[CofiringLatent] = field(default_factory=list)
    implies: list[CofiringLatent] = field(default_factory=list)
    implied_by: list[CofiringLatent] = field(default_factory=list)
    max_phi: float | None = None
    rule: Rule | None = None
    map_x: float | None = None
    map_y: float | None = None
    hist_edges: list[float] | None = None  # its own, if the build has no edges shared by all
    logit_edges: list[float] | None = None

    @property
    def dead(self) -> bool:
        return "dead" in self.flags


@dataclass(frozen=True)
class Context:
    """A window of text in which a latent fires; `acts` is aligned with `tokens`, and `peak` is an index into both."""

    latent: int
    band: int
    rank: int
    act: float
    ctx: int
    document: str
    doc_offset: int
    start: int | None  # None: the imported file does not say
    peak: int
    tokens: list[int]
    acts: list[float]
    duplicates: int


@dataclass(frozen=True)
class LatentRow:
    """A row of the latent table.

    `sort_value` is the number that the list is sorted by (None: unknown).  `nearest_cos` is the cosine of its decoder
    row with the nearest other one.  The `token_*` fields are set in a list filtered by token.  `logit` is set in a
    list filtered by a raised logit: one unit of the latent adds so much to it.
    """

    latent: int
    n_tokens: int | None
    density: float | None
    max_act: float | None
    mean_act: float | None
    logit_kurtosis: float | None
    logit_skew: float | None
    mean_l0: float | None
    flags: tuple[str, ...]  # in alphabetical order
    logit_pos: list[int]
    skew_act: float | None = None
    max_phi: float | None = None
    nearest_cos: float | None = None
    mean_position: float | None = None
    rule: Rule | None = None
    token_n: int | None = None
    token_max: float | None = None
    token_lift: float | None = None
    logit: float | None = None
    sort_value: float | None = None


@dataclass(frozen=True)
class L0Count:
    """The numbers of counted tokens and of BOS positions that have exactly `l0` active latents."""

    l0: int
    n: int
    n_bos: int


@dataclass(frozen=True)
class L0Position:
    """The mean and standard deviation of latents per token at one position (0 is BOS), and the FVU there."""

    position: int
    n: int
    mean: float
    std: float
    fvu: float | None = None


@dataclass(frozen=True)
class L0Token:
    """The mean latents per occurrence of one token."""

    token: int
    n: int
    mean: float


@dataclass(frozen=True)
class Sample:
    """A context with the number of active latents at each position.

    `kind` is "any", or the context is one of those whose tokens need the "fewest" or "most" latents of all that were
    read.
    """

    sample: int
    kind: str
    ctx: int
    document: str
    doc_offset: int
    tokens: list[int]
    l0: list[int]


# ---- records from rows of the tables; each function consumes its row


def _flags(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(flag for flag in FLAGS if row.pop(flag)))


def _pairs(ids: list[int] | None, values: list[float] | None) -> list[tuple[int, float]]:
    return list(zip(ids or [], values or [], strict=True))


def latent_of(
    row: dict[str, Any], sampled: int | None = None, firings_of: Callable[[int], int | None] = lambda _: None
) -> Latent:
    """Make the record.

    `sampled` is the number of firings that co-firing is estimated from, if any.  `firings_of` returns the number of
    another latent's firings, among which P(this latent | other) was sampled.
    """
    row.pop("nearest_cos", None)  # of the first neighbour
    top = zip(row.pop("top_tokens") or [], row.pop("top_token_n") or [], row.pop("top_token_lift") or [],
              row.pop("top_token_max") or [], strict=True)
    after = zip(row.pop("next_tokens") or [], row.pop("next_token_n") or [], row.pop("next_token_lift") or [],
                strict=True)
    return Latent(
        flags=_flags(row),
        top_tokens=[TokenFirings(*item) for item in top],
        next_tokens=[TokenFirings(*item, max_act=None) for item in after],
        logit_pos=_pairs(row.pop("logit_pos"), row.pop("logit_pos_value")),
        logit_neg=_pairs(row.pop("logit_neg"), row.pop("logit_neg_value")),
        neighbours=_pairs(row.pop("neighbours"), row.pop("neighbour_cos")),
        encoder_neighbours=_pairs(row.pop("encoder_neighbours"), row.pop("encoder_neighbour_cos")),
        together=_cofiring(row, "together", sampled), implies=_cofiring(row, "implies", sampled),
        implied_by=_cofiring(row, "implied_by", sampled, firings_of),
        rule=rule_of(row), **row)


def _cofiring(
    row: dict[str, Any], name: str, sampled: int | None, firings_of: Callable[[int], int | None] | None = None
) -> list[CofiringLatent]:
    """Return the latents of a list; their shares are of this latent's firings, or else of `firings_of(other)`."""
    columns = [row.pop(name + suffix) or [] for suffix in ("", "_given", "_lift", "_phi")]

    def interval(other: int, given: float) -> tuple[float, float] | None:
        firings = firings_of(other) if firings_of else row["n_tokens"]
        return share_interval(given, float(sampled)) if sampled and (firings or 0) > sampled else None

    return [CofiringLatent(other, given, lift, phi, interval(other, given))
            for other, given, lift, phi in zip(*columns, strict=True)]


RULE_COLUMNS = tuple(f"rule_{name}" for name in ("kind", "tokens", "class", "precision", "recall", "f1"))


def rule_of(row: dict[str, Any]) -> Rule | None:
    kind, tokens, class_name, *scores = (
        row.pop(f"rule_{name}") for name in ("kind", "tokens", "class", "precision", "recall", "f1"))
    return Rule(kind, tokens or [], class_name, *scores) if kind else None


def latent_row_of(row: dict[str, Any]) -> LatentRow:
    del row["sort_key"]
    return LatentRow(flags=_flags(row), rule=rule_of(row), **{**row, "logit_pos": row["logit_pos"] or []})


def context_of(row: dict[str, Any], document: str) -> Context:
    acts = [0.0] * len(row["tokens"])
    for position, value in zip(row.pop("pos"), row.pop("val"), strict=True):
        acts[position] = value
    del row["doc"]
    return Context(acts=acts, document=document, **row)
