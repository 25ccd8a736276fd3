"""The records that the client returns.  They ignore keys of the JSON that they do not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from sae.client import html

if TYPE_CHECKING:
    from pandas import DataFrame

T = TypeVar("T")


def record(kind: type[T], values: Mapping[str, Any], /, **more: Any) -> T:
    """Return a record of a dataclass from JSON, without the keys that it does not have."""
    names = {one.name for one in fields(kind)}  # type: ignore[arg-type]  # every `kind` is a dataclass
    return kind(**{name: value for name, value in values.items() if name in names} | more)


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> DataFrame:
    """Return rows as a DataFrame.  Raises ImportError if pandas is not installed."""
    try:
        from pandas import DataFrame
    except ImportError:
        raise ImportError("to_frame needs pandas: pip install pandas") from None
    return DataFrame(rows, columns=None if columns is None else list(columns))


@dataclass(frozen=True)
class Model:
    """A language model; `saes` are the ids of its SAEs."""

    model: str
    id: str
    saes: list[str]
    url: str


@dataclass(frozen=True)
class Sae:
    """An SAE; its id is `<model>/<sae>`.  `build` is None while it has no index."""

    model: str
    sae: str
    architecture: str
    n_latents: int
    k: int | None
    layer: int
    hook: str
    url: str
    build: str | None
    metrics: dict[str, Any]
    note: str = ""
    hidden: bool = False

    @property
    def id(self) -> str:
        return f"{self.model}/{self.sae}"


@dataclass(frozen=True)
class Reason:
    """A reason for which a latent was found: its kind, its score, and words, tokens and a number."""

    kind: str
    score: float
    words: str
    tokens: list[str]
    value: str = ""


@dataclass(frozen=True)
class FoundLatent:
    """A latent that a search found, with its reasons, the best first."""

    sae: str
    latent: int
    score: float
    reasons: list[Reason]
    label: str = ""
    density: float | None = None


@dataclass(frozen=True)
class Context:
    """A context in which a latent fires: its tokens as text, and the latent's activation on each.

    Band 0 has the strongest contexts; the others are random samples of weaker activations.
    """

    band: int
    rank: int
    act: float
    document: str
    peak: int
    tokens: list[str]
    acts: list[float]

    @property
    def text(self) -> str:
        return "".join(self.tokens)


@dataclass(frozen=True)
class Label:
    """What people have written about a latent; `version` 0 means nothing yet."""

    sae: str
    latent: int
    text: str
    note: str
    tags: list[str]
    starred: bool
    author: str
    updated: float | None
    version: int
    earlier: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Latent:
    """A latent: its statistics, the tokens that it fires on and promotes, its contexts, label and explanations.

    `fires_on` are (token, firings, lift); `promotes` and `suppresses` are (token, logit).  `values` has everything that
    the server says about it.
    """

    sae: str
    latent: int
    url: str
    density: float | None
    max_act: float | None
    flags: list[str]
    fires_on: list[tuple[str, int, float | None]]
    promotes: list[tuple[str, float]]
    suppresses: list[tuple[str, float]]
    contexts: list[Context]
    label: Label
    explanations: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, Any] = field(repr=False, default_factory=dict)

    def to_frame(self) -> DataFrame:
        """Return its contexts, one a row."""
        return frame([{"band": c.band, "rank": c.rank, "act": c.act, "document": c.document, "text": c.text}
                      for c in self.contexts], ("band", "rank", "act", "document", "text"))

    def _repr_html_(self) -> str:
        return html.latent(self)


@dataclass(frozen=True)
class LatentTable:
    """Rows of the latent table, and the number of latents that its filters leave."""

    sae: str
    total: int
    sort: str
    rows: list[dict[str, Any]]

    def to_frame(self) -> DataFrame:
        """Return the rows; a latent is the index."""
        return frame(self.rows, None if self.rows else ("latent",)).set_index("latent")

    def _repr_html_(self) -> str:
        return html.table(self)


@dataclass(frozen=True)
class TextToken:
    """A token of a text and the number of latents that fire on it."""

    id: int
    text: str
    special: bool
    l0: int


@dataclass(frozen=True)
class TextLatent:
    """A latent in a text: its maximum at position `peak`, its sum, its `n` firings, its surprise in bits."""

    latent: int
    label: str
    max: float
    sum: float
    n: int
    peak: int
    surprise: float
    density: float


@dataclass(frozen=True)
class TextActivations:
    """The latents of one text.  The triplets `positions`, `latents`, `activations` list what is not 0."""

    sae: str
    tokens: list[TextToken]
    positions: list[int]
    latents: list[int]
    activations: list[float]
    ranked: list[TextLatent]

    def of(self, latent: int) -> list[float]:
        """Return a latent's activation at every position."""
        acts = [0.0] * len(self.tokens)
        for position, number, act in zip(self.positions, self.latents, self.activations, strict=True):
            if number == latent:
                acts[position] = act
        return acts

    def to_frame(self) -> DataFrame:
        """Return the activations, one a row, each with its token."""
        rows = [{"position": p, "token": self.tokens[p].text, "latent": latent, "activation": act}
                for p, latent, act in zip(self.positions, self.latents, self.activations, strict=True)]
        return frame(rows, ("position", "token", "latent", "activation"))

    def _repr_html_(self) -> str:
        return html.text(self)


@dataclass(frozen=True)
class ActiveLatent:
    """A latent that is active on a text, by its `score` in the ranking that was asked for."""

    sae: str
    latent: int
    label: str
    score: float
    max: float
    sum: float
    n: int
    peak: int
    token: str
    surprise: float
    density: float
    max_act: float


@dataclass(frozen=True)
class Comment:
    """A comment on a latent."""

    id: int
    text: str
    author: str
    created: float


@dataclass(frozen=True)
class ListMember:
    """A latent of a list, with its label and the note on it."""

    sae: str
    latent: int
    label: str
    note: str
    author: str
    added: float


@dataclass(frozen=True)
class LatentList:
    """A named list of `n` latents; `url` is its page.  `latents` is empty where only the lists were asked for."""

    id: str
    name: str
    description: str
    test_text: str
    author: str
    updated: float
    url: str
    n: int
    latents: list[ListMember] = field(default_factory=list)

    def to_frame(self) -> DataFrame:
        """Return its latents, one a row."""
        return frame([vars(one) for one in self.latents], ("sae", "latent", "label", "note", "author", "added"))


@dataclass(frozen=True)
class LatentOnText:
    """A latent of a list on a text: its activation on each token, and its maximum, also as a share of its own."""

    sae: str
    latent: int
    max: float
    n: int
    share: float | None
    tokens: list[str]
    acts: list[float]


@dataclass(frozen=True)
class SteerEvent:
    """A moment of a steering run: its state, what it waits for, and the texts so far."""

    state: str
    note: str
    text: dict[str, str]


@dataclass(frozen=True)
class SteeringResult:
    """A steering run.  `text` has the outputs by name: baseline, steered, steered.2, …

    `strengths` has, for a sweep, the text of each strength; None is the unsteered one.
    """

    id: str
    url: str
    state: str
    error: str | None
    request: dict[str, Any]
    text: dict[str, str]
    strengths: dict[float | None, str]
    values: dict[str, Any] = field(repr=False, default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.state in ("succeeded", "failed", "stopped")

    def to_frame(self) -> DataFrame:
        """Return the texts, one a row: by name, or for a sweep by strength."""
        if self.strengths:
            return frame([{"strength": s, "text": text} for s, text in self.strengths.items()], ("strength", "text"))
        return frame([{"name": name, "text": text} for name, text in self.text.items()], ("name", "text"))

    def _repr_html_(self) -> str:
        return html.steering(self)


@dataclass(frozen=True)
class Run:
    """A run: training, index, import and so on.  `progress` is from 0 to 1."""

    id: str
    kind: str
    state: str
    title: str
    progress: float
    message: str
    error: str | None
    sae: str | None
    url: str
