"""Requests for measurements of a language model and its SAEs, with their limits.  No torch.

`sae/steering/request.py` has the request for steered texts.  Positions are absolute: BOS is 0.  Token
ids always begin with BOS.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sae.errors import UserError
from sae.steering.request import MAX_SEED, FrozenModel, SteerRequest

MAX_STRENGTHS = 16
MAX_CONCEPT_TOKENS = 200
MAX_TEXTS = 2
MAX_SAES = 64  # that one forward pass serves
MAX_TEXT_CHARACTERS = 20_000
MAX_TEXT_TOKENS = 2048
MAX_TOP = 200
MAX_CONTEXTS = 64
MAX_CONTEXT_TOKENS = 2048
MAX_SCORED = 1024

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Id = Annotated[int, Field(ge=0)]
_Ids = Annotated[tuple[_Id, ...], Field(min_length=2, max_length=MAX_CONTEXT_TOKENS)]

# Prompts for the output score of a latent: almost anything may follow them.
NEUTRAL_PROMPTS = (
    "I think that", "The", "There is a", "It was", "In the", "This is", "We found that", "One of the")


class SweepRequest(FrozenModel):
    """A run repeated with each of `strengths` for the intervention with index `place`, and once unsteered.

    `concept` holds token ids that represent what the latent means (`sae.steering.text_measures.concept_tokens`).
    `request.columns` and `request.samples` are ignored, because every cell is one text.
    """

    request: SteerRequest
    place: int = Field(default=0, ge=0)
    strengths: tuple[Annotated[float, Field(allow_inf_nan=False, ge=-100, le=100)], ...] = Field(
        min_length=1, max_length=MAX_STRENGTHS)
    concept: tuple[_Id, ...] = Field(default=(), max_length=MAX_CONCEPT_TOKENS)

    @model_validator(mode="after")
    def _whole(self) -> SweepRequest:
        if self.place >= len(self.request.interventions):
            raise UserError(f"place: there is no intervention {self.place}", "place")
        if self.request.interventions[self.place].mode in ("ablate", "remove"):
            raise UserError("place: ablate and remove have no strength to sweep", "place")
        if len(set(self.strengths)) < len(self.strengths):
            raise UserError("strengths: give each strength once", "strengths")
        return self

    def cells(self) -> list[SteerRequest]:
        """Return a request of one column for every cell: unsteered first, then the strengths in the given order."""
        def cell(strength: float) -> SteerRequest:
            changed = list(self.request.interventions)
            changed[self.place] = changed[self.place].model_copy(update={"strength": strength})
            return self.request.model_copy(update={
                "interventions": tuple(changed), "columns": ("steered",), "samples": 1})

        first = self.request.model_copy(update={"columns": ("baseline",), "samples": 1})
        return [first, *(cell(strength) for strength in self.strengths)]


class ReadoutRequest(FrozenModel):
    """Next-token probabilities, unsteered and steered, after every prefix of one text.

    `ids` is the text as a run stored it, prompt and output; if it is empty, the text is the request's prompt.
    `prompt_tokens` is the length of the prompt in it, BOS included, which `where` needs for "output".
    `positions` are those that get a table of the `top` tokens of either model.  The KL is given everywhere.
    """

    request: SteerRequest
    ids: tuple[_Id, ...] = Field(default=(), max_length=MAX_CONTEXT_TOKENS)
    prompt_tokens: int = Field(default=0, ge=0)
    positions: tuple[_Id, ...] = Field(default=(), max_length=MAX_CONTEXT_TOKENS)
    top: int = Field(default=10, ge=1, le=50)


class InspectRequest(FrozenModel):
    """Request for the latents of one or more SAEs that fire on one or two texts.

    Either `texts` or `ids` (such as a context of a build, BOS first) is given.  The answer lists the `top` strongest
    latents per token, and `latents` wherever they fire.  `markup` says whether special tokens that are spelled in the
    texts are read as these tokens; None leaves it to the SAEs.
    """

    model: str = Field(min_length=1)
    saes: tuple[str, ...] = Field(min_length=1, max_length=MAX_SAES)
    texts: tuple[Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)], ...] = Field(
        default=(), max_length=MAX_TEXTS)
    ids: tuple[_Ids, ...] = Field(default=(), max_length=MAX_TEXTS)
    top: int = Field(default=20, ge=1, le=MAX_TOP)
    latents: tuple[_Id, ...] = Field(default=(), max_length=MAX_TOP)
    markup: bool | None = None

    @model_validator(mode="after")
    def _whole(self) -> InspectRequest:
        if bool(self.texts) == bool(self.ids):
            raise UserError("texts: type or paste some text", "texts")
        if len(set(self.saes)) < len(self.saes):
            raise UserError("saes: give each SAE once", "saes")
        return self


class AblationRequest(FrozenModel):
    """Request for the effect of switching one latent off in contexts where it fires.

    `contexts` are token ids.  The directions of `n_random` random latents are removed as well, for comparison.
    """

    model: str = Field(min_length=1)
    sae: str = Field(min_length=1)
    latent: int = Field(ge=0)
    contexts: tuple[_Ids, ...] = Field(min_length=1, max_length=MAX_CONTEXTS)
    n_random: int = Field(default=4, ge=1, le=32)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)


class ScoreRequest(FrozenModel):
    """Request for output scores of many latents of one SAE; `max_acts` has one maximum per latent."""

    model: str = Field(min_length=1)
    sae: str = Field(min_length=1)
    latents: tuple[_Id, ...] = Field(min_length=1, max_length=MAX_SCORED)
    max_acts: tuple[Annotated[float, Field(allow_inf_nan=False, ge=0)], ...] = Field(max_length=MAX_SCORED)
    strength: _Finite = Field(default=2.0, ge=-100, le=100)
    top: int = Field(default=10, ge=1, le=100)
    prompts: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = Field(
        default=NEUTRAL_PROMPTS, min_length=1, max_length=64)

    @model_validator(mode="after")
    def _whole(self) -> ScoreRequest:
        if len(self.latents) != len(self.max_acts):
            raise UserError(f"max_acts: give one maximum per latent; there are {len(self.latents)} latents and "
                            f"{len(self.max_acts)} maxima", "max_acts")
        return self
