"""What the web process and the model worker say to each other.  No torch.

One JSON object a line, one connection a request.  The client sends one command, perhaps a `Stop`
later; the worker answers with any number of `Queued`, `Loading`, `Started`, `Progress` and `Part`
and ends with exactly one final event: `Failed`, `Busy`, or the command's own answer.

    Generate   Done         texts, steered or not, streamed as `Progress`
    Sweep      Swept        the same for a row of strengths, then measured
    Readout    ReadOut      next-token tables and KL along one text
    Inspect    Inspected    the latents of pasted texts
    Ablate     Ablated      what is lost without a latent
    Score      Scored       output scores of many latents, streamed as `Part`
    Warm       Ready        nothing but loading
    Status     Report       what is loaded and going on

A connection that closes early is a `Stop` as well.  Every `Progress` holds the full text so far,
so that any of them may be lost.  Over TCP the first line is a `Hello` with the shared token.

`folders` says where each SAE of a request lies on disk; a worker on another host must see the
same files under the same paths.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sae.steering.measurement_requests import (
    AblationRequest,
    InspectRequest,
    ReadoutRequest,
    ScoreRequest,
    SweepRequest,
)
from sae.steering.request import SteerRequest

MAX_LINE = 1 << 25  # bytes; a text of 512 tokens with 16 latents takes some 100 kB
_MAX_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux and 104 on macOS, with the final zero


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


# ---- commands


class Hello(_Message):
    """The first line over TCP."""

    type: Literal["hello"] = "hello"
    token: str


class Generate(_Message):
    type: Literal["generate"] = "generate"
    request: SteerRequest
    folders: dict[str, str]


class Sweep(_Message):
    type: Literal["sweep"] = "sweep"
    request: SweepRequest
    folders: dict[str, str]


class Readout(_Message):
    type: Literal["readout"] = "readout"
    request: ReadoutRequest
    folders: dict[str, str]


class Inspect(_Message):
    type: Literal["inspect"] = "inspect"
    request: InspectRequest
    folders: dict[str, str]


class Ablate(_Message):
    type: Literal["ablate"] = "ablate"
    request: AblationRequest
    folders: dict[str, str]


class Score(_Message):
    type: Literal["score"] = "score"
    request: ScoreRequest
    folders: dict[str, str]


class Warm(_Message):
    """Load the model and SAEs, so that the next request need not wait for them."""

    type: Literal["warm"] = "warm"
    model: str
    folders: dict[str, str] = {}


class Status(_Message):
    """Answered at once, whatever waits."""

    type: Literal["status"] = "status"


class Stop(_Message):
    type: Literal["stop"] = "stop"


Job = Generate | Sweep | Readout | Inspect | Ablate | Score | Warm  # what waits in the queue
Command = Hello | Job | Status | Stop


# ---- parts of events


class Text(_Message):
    """A row of tokens.  `pieces` are their bytes as Latin-1; `acts` may lack the newest tokens."""

    ids: list[int] = []
    pieces: list[str] = []
    acts: list[list[float]] = []  # for each token, one value per intervention
    kl: list[float] = []  # once finished: KL(this column's model ‖ unsteered), nats, of the draw of each token
    finish: str | None = None  # length, eos or stop; None while it grows, or where it was stopped

    def token_bytes(self) -> list[bytes]:
        return [piece.encode("latin-1") for piece in self.pieces]


class Cell(_Message):
    """One strength of a sweep; `strength` None is the unsteered text.

    `concept`: share of its tokens that are the concept's; `repetition`: share of its 3-grams that
    it had already; `perplexity`: of the output under the unsteered model; None where it is empty.
    """

    strength: float | None
    text: Text
    concept: float | None
    repetition: float | None
    perplexity: float | None
    error: str | None = None  # why it was not written to its end


class NextToken(_Message):
    """Probabilities of one next token."""

    id: int
    piece: str
    baseline: float
    steered: float


class NextTokens(_Message):
    """What may follow the token at `position`; the likeliest of either model, by the larger of both."""

    position: int
    rows: list[NextToken]


class TextLatent(_Message):
    """One latent over one text, special tokens left out: its sum, maximum, where that is, on how many tokens."""

    latent: int
    max: float
    sum: float
    peak: int
    n: int


class TextLatents(_Message):
    """One SAE on one text.

    `l0` per position.  `pos`, `lat`, `act`: the strongest `top` latents of every position, as
    triplets sorted by position, then by strength.  `ranked`: every latent that fires outside
    special tokens, by `max`.
    """

    sae: str
    l0: list[int]
    pos: list[int]
    lat: list[int]
    act: list[float]
    ranked: list[TextLatent]


class InspectedText(_Message):
    """`special`: BOS and the like, by position; `windows`: positions at which the text was cut anew.

    A text longer than the model's context is read in pieces, each with a BOS of its own, which is
    not shown again.
    """

    ids: list[int]
    pieces: list[str]
    special: list[bool]
    windows: list[int]
    saes: list[TextLatents]


class Effect(_Message):
    """Of switching something off, per context: means over the tokens where the latent fires (`at`)
    and over all from the first of these on (`after`).  ΔCE and KL(unchanged ‖ changed) in nats."""

    ce_at: list[float]
    kl_at: list[float]
    ce_after: list[float]
    kl_after: list[float]


class LatentScore(_Message):
    """A latent's output score (`sae.steering.output_score`): how much more probable steering with it makes its top
    logit tokens together, on average; None for a latent that never fired."""

    latent: int
    score: float | None
    tokens: list[int]


# ---- events


class Queued(_Message):
    """Waiting: `position` 1 is next."""

    type: Literal["queued"] = "queued"
    position: int


class Loading(_Message):
    type: Literal["loading"] = "loading"
    what: str


class Started(_Message):
    """The prompt with BOS, and the unsteered activations on it."""

    type: Literal["started"] = "started"
    prompt: Text


class Progress(_Message):
    """Texts by `SteerRequest.keys()`; of a sweep by the cells' numbers, "0" unsteered, "1" the first strength."""

    type: Literal["progress"] = "progress"
    columns: dict[str, Text]


class Part(_Message):
    """How far a measurement is, of 1."""

    type: Literal["part"] = "part"
    done: float


class Done(_Message):
    """The final texts.  `tokens` and `seconds`: drawn in all columns, and how long that took."""

    type: Literal["done"] = "done"
    columns: dict[str, Text]
    stopped: bool
    tokens: int
    seconds: float


class Swept(_Message):
    type: Literal["swept"] = "swept"
    cells: list[Cell]
    stopped: bool
    tokens: int
    seconds: float


class ReadOut(_Message):
    """`kl[i]`: KL(steered ‖ unsteered) of the next-token distributions after position i, nats.
    `acts[i]`: the activation of every intervention's latent at i, `[baseline, steered]` models apart."""

    type: Literal["read_out"] = "read_out"
    ids: list[int]
    pieces: list[str]
    kl: list[float]
    tables: list[NextTokens]
    baseline_acts: list[list[float]]
    steered_acts: list[list[float]]


class Inspected(_Message):
    type: Literal["inspected"] = "inspected"
    texts: list[InspectedText]
    seconds: float


class Ablated(_Message):
    """`random`: of as many random living directions of the SAE, at the same tokens and of the same norm.

    `sparsity`: how few logits the effect is concentrated on: (Σ|Δ|)² / (V·Σ Δ²) of the change in
    next-token logits, 1 where it is spread evenly over all V, 1/V where it is on one.
    """

    type: Literal["ablated"] = "ablated"
    latent: int
    firings: list[int]  # tokens of each context on which it fires
    effect: Effect
    random: list[Effect]
    sparsity: float | None
    random_sparsity: float | None
    tokens: list[NextToken]  # whose probability moves most, at the latent's strongest token of each context (mean)


class Scored(_Message):
    type: Literal["scored"] = "scored"
    scores: list[LatentScore]
    stopped: bool


class Ready(_Message):
    type: Literal["ready"] = "ready"


class Report(_Message):
    """`memory`: bytes of models and SAEs kept ready; `waiting` and `going`: requests."""

    type: Literal["report"] = "report"
    loaded: list[str]
    memory: int
    limit: int
    waiting: int
    going: int
    pid: int
    device: str


class Failed(_Message):
    """`field`: the setting at fault, where it is the user's to mend; `gone`: the worker itself died."""

    type: Literal["failed"] = "failed"
    message: str
    field: str | None = None
    gone: bool = False


class Busy(_Message):
    """The queue is full; nothing was done."""

    type: Literal["busy"] = "busy"
    retry_after_s: float


Answer = Done | Swept | ReadOut | Inspected | Ablated | Scored | Ready | Report | Failed | Busy
Event = Queued | Loading | Started | Progress | Part | Answer
Final = (Done, Swept, ReadOut, Inspected, Ablated, Scored, Ready, Report, Failed, Busy)

_commands: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])
_events: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def encode(message: Command | Event) -> bytes:
    """One line."""
    return message.model_dump_json().encode() + b"\n"


def decode_command(line: bytes) -> Command:
    """Raises pydantic's ValidationError for anything else."""
    return _commands.validate_json(line)


def decode_event(line: bytes) -> Event:
    """Raises pydantic's ValidationError for anything else."""
    return _events.validate_json(line)


def socket_path(workspace: Path) -> Path:
    """Where this process's worker listens: in the workspace, or, where its path is too long for a
    Unix socket, in a fresh runtime directory that only this user may enter."""
    name = f"worker-{os.getpid()}.sock"
    path = workspace / name
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    parent = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    if len(os.fsencode(parent)) > _MAX_SOCKET_PATH - len(name) - 20 or not os.access(parent, os.W_OK):
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix="saescope-", dir=parent)) / name
