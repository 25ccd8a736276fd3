"""A steering request and its limits.  No torch, so that pages and clients can use it.

An *intervention* changes the residual stream `h` that leaves one block, along the decoder row
`d` of one latent.  `a` is the latent's activation on the unchanged `h`, `M` is its maximum
activation in the build, and `scale` is the SAE's per-token scale (1 unless it normalises each token):

    add      h + s·M·scale·d            neutral at s = 0
    clamp    h + (s·M − a)·scale·d      the activation is set to s·M; the reconstruction error stays
    scale    h + (s − 1)·a·scale·d      the activation is multiplied by s; neutral at s = 1
    ablate   h − a·scale·d              the activation is set to 0
    remove   h − (h·d)·d                nothing of the direction is left, whichever latents wrote it

A transcoder's activation is read at its `hook`, and its direction acts at its `out_hook`.

A request is written in *columns*: `baseline` (nothing changed), `steered`, and on request `control`.
The control makes the same changes with every direction `d` replaced by a random one of the same length.
It separates the effect of the direction from the effect of the size of the change.  Each column
has several `samples`.  The i-th sample of every column draws with seed + i, so that columns can be
compared sample by sample.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sae.errors import UserError
from sae.faults import faults

Mode = Literal["add", "clamp", "scale", "ablate", "remove"]
Positions = Literal["all", "output", "from"]
ColumnName = Literal["baseline", "steered", "control"]
Role = Literal["system", "user", "assistant"]

MODES: dict[Mode, str] = {
    "add": "add: strength × its maximum activation, on every steered token",
    "clamp": "clamp: set its activation to strength × its maximum",
    "scale": "scale: multiply its activation",
    "ablate": "ablate: set its activation to 0",
    "remove": "project out: remove its decoder direction from the residual stream",
}
MAX_LATENTS = 16
MAX_LENGTH = 512
MAX_SAMPLES = 8
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 64
MAX_MESSAGES = 64
MAX_STRENGTH = 100.0
MAX_SEED = 2**31 - 1
MAX_POSITION = 1_000_000
MAX_PROMPT_CHARACTERS = 50_000  # checked before tokens are counted

# Ratios of the added vector's length to the median length of the residual stream.
RATIO_WARN = 0.5
RATIO_STRONG = 1.0

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Intervention(FrozenModel):
    """A change along one latent.  `strength` is the `s` of its mode; ablate and remove ignore it."""

    sae: str = Field(min_length=1)
    layer: int = Field(ge=0)
    latent: int = Field(ge=0)
    mode: Mode = "add"
    strength: _Finite = Field(default=1.0, ge=-MAX_STRENGTH, le=MAX_STRENGTH)
    max_act: _Finite = Field(ge=0)

    @property
    def target(self) -> float:
        """Return the raw coefficient s·M of add and clamp, or 0 for the other modes."""
        return self.strength * self.max_act if self.mode in ("add", "clamp") else 0.0

    @property
    def gain(self) -> float:
        """Return the multiple of the latent's own activation that is added: −1 removes it, 0 leaves it."""
        return {"clamp": -1.0, "ablate": -1.0, "scale": self.strength - 1.0}.get(self.mode, 0.0)


class SteeredPositions(FrozenModel):
    """The positions that are changed.  Positions are absolute: BOS is 0, the prompt begins at 1.

    `all` means prompt and output.  `output` means only the generated tokens, so the unsteered model still
    chooses the first of them.  `from` means position `start` and all later ones.  Special tokens, including
    BOS, are left unchanged unless `special` is set.
    """

    positions: Positions = "all"
    start: int = Field(default=0, ge=0, le=MAX_POSITION)
    special: bool = False


class Sampling(FrozenModel):
    """Settings of sampling.  Temperature 0 takes the most likely token; top_k 0 and top_p 1 cut nothing off.

    The order is repetition penalty, temperature, top_k, top_p.  `repetition_penalty` r applies to every token
    in prompt or output: positive logits are divided by r, negative ones multiplied by r.  A text ends
    with the token that completes one of the `stop` strings, and keeps the string.
    """

    temperature: _Finite = Field(default=0.7, ge=0, le=5)
    top_p: _Finite = Field(default=0.95, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, le=1_000_000)
    length: int = Field(default=60, ge=1, le=MAX_LENGTH)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    repetition_penalty: _Finite = Field(default=1.0, ge=1, le=2)
    stop: tuple[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)], ...] = Field(
        default=(), max_length=MAX_STOPS)
    stop_at_eos: bool = True


class ChatMessage(FrozenModel):
    role: Role
    content: str = Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)


class SteerRequest(FrozenModel):
    """One steering run.  It continues `prompt`, or answers `chat` with the model's own template.

    `markup` says whether special tokens that are spelled in the prompt are read as these tokens; None leaves it to the
    SAEs.
    """

    model: str = Field(min_length=1)
    prompt: str = Field(default="", max_length=MAX_PROMPT_CHARACTERS)
    chat: tuple[ChatMessage, ...] = Field(default=(), max_length=MAX_MESSAGES)
    interventions: tuple[Intervention, ...] = Field(min_length=1, max_length=MAX_LATENTS)
    where: SteeredPositions = SteeredPositions()
    sampling: Sampling = Sampling()
    columns: tuple[ColumnName, ...] = Field(default=("baseline", "steered"), min_length=1, max_length=3)
    samples: int = Field(default=1, ge=1, le=MAX_SAMPLES)
    control_seed: int = Field(default=0, ge=0, le=MAX_SEED)
    markup: bool | None = None

    @model_validator(mode="after")
    def _whole(self) -> SteerRequest:
        if bool(self.prompt) == bool(self.chat):
            raise UserError("prompt: type some text for the model to continue" if not self.prompt else
                            "chat: give a prompt or messages, not both", "chat" if self.prompt else "prompt")
        if self.chat and self.chat[-1].role != "user":
            raise UserError("chat: the model answers the last message, so it should be the user's", "chat")
        if len(set(self.columns)) < len(self.columns):
            raise UserError("columns: give each column once", "columns")
        seen = [(i.sae, i.latent) for i in self.interventions]
        for index, (sae, latent) in enumerate(seen):
            if (sae, latent) in seen[:index]:
                field = f"interventions.{index}.latent"
                raise UserError(f"{field}: latent {latent} of {sae} appears twice; give it one strength", field)
        return self

    def keys(self) -> list[str]:
        """Return the names of the texts: `column_key` of every column and sample."""
        return [column_key(column, sample) for sample in range(self.samples) for column in self.columns]


def column_key(column: str, sample: int) -> str:
    """Return the name of one text of a run: `steered` for the first sample, `steered.2` for the second."""
    return column if sample == 0 else f"{column}.{sample + 1}"


_Request = TypeVar("_Request", bound=BaseModel)


def parse_request(values: dict[str, Any]) -> SteerRequest:
    """Return the checked request.  Raises UserError with the path of the first fault (`sampling.top_p`) as `field`."""
    return parse(SteerRequest, values)


def parse(kind: type[_Request], values: dict[str, Any]) -> _Request:
    """Return a checked request of any kind.  Raises UserError with the path of the first fault as `field`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise user_error(error, kind) from None


def user_error(error: ValidationError, model: type[BaseModel] | None = None) -> UserError:
    """Return the first fault of a request, with its path as the field; `model` states the limits of the fields."""
    first = faults(error, model)[0]
    return UserError(f"{first.field}: {first.words}", first.field)


def check_room(prompt_tokens: int, length: int, n_ctx: int, model: str) -> None:
    """Raise UserError if `prompt_tokens` (BOS included) and the output do not fit into the model's context."""
    if prompt_tokens >= n_ctx:
        raise UserError(
            f"prompt: it has {prompt_tokens:,} tokens with BOS, but {model} reads at most {n_ctx:,}; shorten it",
            "prompt")
    if prompt_tokens + length > n_ctx:
        raise UserError(
            f"length: {model} reads {n_ctx:,} tokens and the prompt takes {prompt_tokens:,} (BOS included), "
            f"so it can be {n_ctx - prompt_tokens:,} at most", "length")


def typical_scale(normalize: str, median_norm: float, d_model: int) -> float:
    """Return the SAE's per-token scale on a token of median residual norm.

    Under layer norm it is the standard deviation of the residual's components, which is at most
    norm / √d_model, and close to that because their mean is small.  Under a constant norm it equals
    norm / √d_model.  It is 1 if the SAE does not scale each token.
    """
    return 1.0 if normalize in ("none", "dataset", "centre") else median_norm / d_model**0.5


def norm_ratio(coefficient: float, scale: float, median_norm: float) -> float | None:
    """Return ‖coefficient·scale·d‖ over the median residual norm, for a unit `d`, or None without a known norm."""
    return abs(coefficient) * scale / median_norm if median_norm > 0 else None
