"""What the web process and the model worker say to each other.  No torch.

One JSON object a line over a Unix socket, one connection a request.  The client sends a
`Generate`, perhaps a `Stop` later; the worker answers with any number of `Queued`, `Loading`,
`Started` and `Progress` and ends with exactly one of `Done`, `Failed` or `Busy`.  A connection
that closes early is a `Stop` as well.

Every `Progress` holds the full text so far, so that any of them may be lost.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sae.steering_spec import SteerRequest

MAX_LINE = 1 << 25  # bytes; a text of 512 tokens with 16 latents takes some 100 kB
_MAX_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux and 104 on macOS, with the final zero


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Text(_Message):
    """A row of tokens.  `pieces` are their bytes as Latin-1; `acts` may lack the newest tokens."""

    ids: list[int] = []
    pieces: list[str] = []
    acts: list[list[float]] = []  # for each token, one value per intervention
    finish: str | None = None  # length or eos; None while it grows, or where it was stopped

    def token_bytes(self) -> list[bytes]:
        return [piece.encode("latin-1") for piece in self.pieces]


class Generate(_Message):
    """`folders`: where each SAE of the request lies on disk."""

    type: Literal["generate"] = "generate"
    request: SteerRequest
    folders: dict[str, str]


class Stop(_Message):
    type: Literal["stop"] = "stop"


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
    type: Literal["progress"] = "progress"
    columns: dict[str, Text]


class Done(_Message):
    """The final texts.  `tokens` and `seconds`: drawn in all columns, and how long that took."""

    type: Literal["done"] = "done"
    columns: dict[str, Text]
    stopped: bool
    tokens: int
    seconds: float


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


Command = Generate | Stop
Event = Queued | Loading | Started | Progress | Done | Failed | Busy
Final = (Done, Failed, Busy)

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
