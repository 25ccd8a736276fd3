"""The messages between the web process and the model worker.  This module imports no torch.

Each line is one JSON object, and each connection carries one request.  The client sends one command and perhaps a
`Stop` later.  The worker answers with any number of `Queued`, `Loading`, `Started`, `Progress` and `Part`
and ends with exactly one final event: `Failed`, `Busy`, or the command's own answer.

    Generate   Done         texts, steered or not, streamed as `Progress`
    Sweep      Swept        texts for several strengths, streamed as `Progress` and then measured
    Readout    ReadOut      next-token tables and KL along one text
    Inspect    Inspected    the latents of pasted texts
    Ablate     Ablated      the effect of removing a latent
    Score      Scored       output scores of many latents, streamed as `Part`
    Warm       Ready        loads a model and SAEs, and nothing else
    Status     Report       the loaded models and active requests

A connection that closes early also counts as a `Stop`.  Every `Progress` holds the full text so far,
so losing one does no harm.  Over TCP the first line is a `Hello` with the shared token.

`folders` gives the folder of each SAE in a request.  A worker on another host must see the
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
    """The first line over TCP, with the shared token."""

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
    """A command to load the model and SAEs, so that the next request does not wait for them."""

    type: Literal["warm"] = "warm"
    model: str
    folders: dict[str, str] = {}


class Status(_Message):
    """A command for the worker's state, answered at once even if requests wait."""

    type: Literal["status"] = "status"


class Stop(_Message):
    type: Literal["stop"] = "stop"


Job = Generate | Sweep | Readout | Inspect | Ablate | Score | Warm  # the commands that go through the queue
Command = Hello | Job | Status | Stop


# ---- parts of events


class Text(_Message):
    """A row of tokens.  `pieces` are their bytes as Latin-1; `acts` may lack the newest tokens."""

    ids: list[int] = []
    pieces: list[str] = []
    acts: list[list[float]] = []  # for each token, one value per intervention
    kl: list[float] = []  # once finished: KL(this column's model ‖ unsteered) at each token, in nats
    finish: str | None = None  # length, eos or stop; None while it grows or if it was stopped

    def token_bytes(self) -> list[bytes]:
        return [piece.encode("latin-1") for piece in self.pieces]


class Cell(_Message):
    """One strength of a sweep; `strength` None is the unsteered text.

    `concept` is the share of its tokens that belong to the concept, `repetition` the share of its 3-grams that
    occurred before in it, and `perplexity` the output's perplexity under the unsteered model.  The measures are None
    for an empty text.
    """

    strength: float | None
    text: Text
    concept: float | None
    repetition: float | None
    perplexity: float | None
    error: str | None = None  # the reason if the text was not finished


class NextToken(_Message):
    """The probabilities of one next token under the unsteered and the steered model."""

    id: int
    piece: str
    baseline: float
    steered: float


class NextTokens(_Message):
    """The most likely tokens of either model after the token at `position`, sorted by the larger probability."""

    position: int
    rows: list[NextToken]


class TextLatent(_Message):
    """One latent's activations on one text without special tokens: `max` (at position `peak`), `sum`, `n` firings."""

    latent: int
    max: float
    sum: float
    peak: int
    n: int


class TextLatents(_Message):
    """The latents of one SAE on one text.

    `l0` has one value per position.  `pos`, `lat` and `act` are the strongest `top` latents of every position, as
    triplets sorted by position, then by strength.  `ranked` has every latent that fires outside
    special tokens, sorted by `max`.
    """

    sae: str
    l0: list[int]
    pos: list[int]
    lat: list[int]
    act: list[float]
    ranked: list[TextLatent]


class InspectedText(_Message):
    """One inspected text: `special` marks BOS and other special tokens, `windows` the positions of its cuts.

    A text longer than the model's context is read in windows.  Each window has its own BOS, which is
    not repeated here.
    """

    ids: list[int]
    pieces: list[str]
    special: list[bool]
    windows: list[int]
    saes: list[TextLatents]


class Effect(_Message):
    """The effect of an ablation per context: ΔCE and KL(unchanged ‖ changed), in nats.

    `*_at` are means over the tokens where the latent fires, `*_after` over all tokens from the first of these on.
    """

    ce_at: list[float]
    kl_at: list[float]
    ce_after: list[float]
    kl_after: list[float]


class LatentScore(_Message):
    """A latent's output score (`sae.steering.output_score`), or None for a latent that never fired.

    The score is the mean increase in the joint probability of the latent's top logit tokens when it is steered.
    """

    latent: int
    score: float | None
    tokens: list[int]


# ---- events


class Queued(_Message):
    """The position of a waiting request; 1 is next."""

    type: Literal["queued"] = "queued"
    position: int


class Loading(_Message):
    type: Literal["loading"] = "loading"
    what: str


class Started(_Message):
    """The start of generation: the prompt with BOS and the unsteered activations on it."""

    type: Literal["started"] = "started"
    prompt: Text


class Progress(_Message):
    """The texts so far by `SteerRequest.keys()`; in a sweep by the cell's number ("0" is unsteered)."""

    type: Literal["progress"] = "progress"
    columns: dict[str, Text]


class Part(_Message):
    """The finished share of a measurement, 0 to 1."""

    type: Literal["part"] = "part"
    done: float


class Done(_Message):
    """The final texts.  `tokens` were generated in all columns together in `seconds`."""

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
    """The next-token tables and KL along one text.

    `kl[i]` is KL(steered ‖ unsteered) of the next-token distributions after position i, in nats.  `baseline_acts[i]`
    and `steered_acts[i]` are the activations of the interventions' latents at i in the two models.
    """

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
    """The effect of ablating a latent.

    `random` are the effects of random alive directions of the SAE, at the same tokens and with the same norm.
    `sparsity` is (Σ|Δ|)² / (V·Σ Δ²) of the change in next-token logits: 1 if it is spread evenly over all V tokens,
    1/V if it is on a single one.
    """

    type: Literal["ablated"] = "ablated"
    latent: int
    firings: list[int]  # number of tokens in each context on which the latent fires
    effect: Effect
    random: list[Effect]
    sparsity: float | None
    random_sparsity: float | None
    tokens: list[NextToken]  # largest mean changes in probability, at the strongest token of each context


class Scored(_Message):
    type: Literal["scored"] = "scored"
    scores: list[LatentScore]
    stopped: bool


class Ready(_Message):
    type: Literal["ready"] = "ready"


class Report(_Message):
    """The worker's state: `memory` bytes of loaded models and SAEs, `waiting` and active (`going`) requests."""

    type: Literal["report"] = "report"
    loaded: list[str]
    memory: int
    limit: int
    waiting: int
    going: int
    pid: int
    device: str


class Failed(_Message):
    """A failed request.  `field` names the setting of a user error; `gone` means that the worker itself died."""

    type: Literal["failed"] = "failed"
    message: str
    field: str | None = None
    gone: bool = False


class Busy(_Message):
    """A request that was refused because the queue is full."""

    type: Literal["busy"] = "busy"
    retry_after_s: float


Answer = Done | Swept | ReadOut | Inspected | Ablated | Scored | Ready | Report | Failed | Busy
Event = Queued | Loading | Started | Progress | Part | Answer
Final = (Done, Swept, ReadOut, Inspected, Ablated, Scored, Ready, Report, Failed, Busy)

_commands: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])
_events: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def encode(message: Command | Event) -> bytes:
    """Encode a message as one line."""
    return message.model_dump_json().encode() + b"\n"


def decode_command(line: bytes) -> Command:
    """Decode a line from the client.  Raises pydantic's ValidationError."""
    return _commands.validate_json(line)


def decode_event(line: bytes) -> Event:
    """Decode a line from the worker.  Raises pydantic's ValidationError."""
    return _events.validate_json(line)


def socket_path(workspace: Path) -> Path:
    """Return the path of the socket of this process's worker.

    It is in the workspace, unless that path is too long for a Unix socket: then it is in a new runtime directory
    that only this user may enter.
    """
    name = f"worker-{os.getpid()}.sock"
    path = workspace / name
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    parent = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    if len(os.fsencode(parent)) > _MAX_SOCKET_PATH - len(name) - 20 or not os.access(parent, os.W_OK):
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix="saescope-", dir=parent)) / name
