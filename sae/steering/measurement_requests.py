"""What else can be asked of a language model and its SAEs, and the limits.  No torch.

`sae/steering/request.py` has the texts; here are the measurements around them.  Positions are
absolute: BOS is 0.  Token ids always begin with BOS.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sae.errors import UserError
from sae.steering.request import MAX_SEED, FrozenModel, SteerRequest

MAX_STRENGTHS = 16
MAX_CONCEPT_TOKENS = 200
MAX_TEXTS = 2
MAX_SAES = 2
MAX_TEXT_CHARACTERS = 20_000
MAX_TEXT_TOKENS = 2048
MAX_TOP = 200
MAX_CONTEXTS = 64
MAX_CONTEXT_TOKENS = 2048
MAX_SCORED = 1024

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Id = Annotated[int, Field(ge=0)]
_Ids = Annotated[tuple[_Id, ...], Field(min_length=2, max_length=MAX_CONTEXT_TOKENS)]

# What the output score of a latent is measured on: beginnings after which almost anything may come.
NEUTRAL_PROMPTS = (
    "I think that", "The", "There is a", "It was", "In the", "This is", "We found that", "One of the")


class SweepRequest(FrozenModel):
    """The same run once for each of `strengths` of the intervention at `place`, and unsteered.

    `concept`: token ids that stand for what the latent means (`sae.steering.text_measures.concept_tokens`).
    `request.columns` and `request.samples` are not looked at: every cell is one steered text.
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
            raise UserError("place: ablate and remove have no strength that could be swept", "place")
        if len(set(self.strengths)) < len(self.strengths):
            raise UserError("strengths: each strength once", "strengths")
        return self

    def cells(self) -> list[SteerRequest]:
        """A request of one column for every cell: unsteered first, then by strength as they were given."""
        def cell(strength: float) -> SteerRequest:
            changed = list(self.request.interventions)
            changed[self.place] = changed[self.place].model_copy(update={"strength": strength})
            return self.request.model_copy(update={
                "interventions": tuple(changed), "columns": ("steered",), "samples": 1})

        first = self.request.model_copy(update={"columns": ("baseline",), "samples": 1})
        return [first, *(cell(strength) for strength in self.strengths)]


class ReadoutRequest(FrozenModel):
    """Next-token probabilities, unsteered and steered, after every prefix of one text.

    `ids`: the text as a run stored it, prompt and output; empty: the request's prompt alone.
    `prompt_tokens`: how many of them are the prompt, BOS included (for `where`: output).
    `positions`: where a table is wanted, of the `top` tokens of either; the KL is given everywhere.
    """

    request: SteerRequest
    ids: tuple[_Id, ...] = Field(default=(), max_length=MAX_CONTEXT_TOKENS)
    prompt_tokens: int = Field(default=0, ge=0)
    positions: tuple[_Id, ...] = Field(default=(), max_length=MAX_CONTEXT_TOKENS)
    top: int = Field(default=10, ge=1, le=50)


class InspectRequest(FrozenModel):
    """Which latents of one or two SAEs fire on one or two texts.

    Either `texts` or `ids` (such as a context of a build, BOS first).  `top`: latents told per token, strongest first;
    those of `latents` are told wherever they fire.
    """

    model: str = Field(min_length=1)
    saes: tuple[str, ...] = Field(min_length=1, max_length=MAX_SAES)
    texts: tuple[Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)], ...] = Field(
        default=(), max_length=MAX_TEXTS)
    ids: tuple[_Ids, ...] = Field(default=(), max_length=MAX_TEXTS)
    top: int = Field(default=20, ge=1, le=MAX_TOP)
    latents: tuple[_Id, ...] = Field(default=(), max_length=MAX_TOP)

    @model_validator(mode="after")
    def _whole(self) -> InspectRequest:
        if bool(self.texts) == bool(self.ids):
            raise UserError("texts: type or paste some text", "texts")
        if len(set(self.saes)) < len(self.saes):
            raise UserError("saes: the same SAE twice", "saes")
        return self


class AblationRequest(FrozenModel):
    """What is lost when one latent is switched off in contexts where it fires.

    `contexts` are token ids; `n_random` random latents are switched off as well, for comparison.
    """

    model: str = Field(min_length=1)
    sae: str = Field(min_length=1)
    latent: int = Field(ge=0)
    contexts: tuple[_Ids, ...] = Field(min_length=1, max_length=MAX_CONTEXTS)
    n_random: int = Field(default=4, ge=1, le=32)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)


class ScoreRequest(FrozenModel):
    """Output scores of many latents of one SAE; `max_acts` belong to `latents`, one each."""

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
            raise UserError(f"max_acts: {len(self.latents)} latents and {len(self.max_acts)} maxima", "max_acts")
        return self
