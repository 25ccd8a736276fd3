"""The measured effects of latents on the model for programs, as the latent's page and the table show them."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from app.pages.api.security import BEARER
from app.pages.dependencies import ToolsDep
from app.pages.inspect import effects
from app.web.parameters import PathNumber

router = APIRouter(prefix="/api/effects", tags=["steering"], dependencies=[BEARER])

_EFFECT_EXAMPLE = {
    "sae": "demo/2-res-batchtopk-4k", "build": "20261121-000000-0000", "latent": 39, "score": 0.31,
    "score_tokens": [288, 1024], "ablation": {"loss": 0.042, "random_loss": 0.003}}


class ScoresIn(BaseModel):
    """Latents whose output scores are wanted."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"latents": [39, 308]}]})

    latents: list[int]


class ScoresOut(BaseModel):
    """Output scores."""

    scores: dict[int, float | None] = Field(description="By latent; null for a latent that never fired")


@router.post("/{model}/{name}/scores", summary="Output scores of latents; unknown ones are measured (scope steer)")
async def measure_scores(model: str, name: str, body: ScoresIn, tools: ToolsDep) -> ScoresOut:
    """Wait for the scores that have to be measured.  Known ones are kept with the SAE."""
    return ScoresOut(scores=await effects.scores_of(tools, model, name, body.latents))


@router.post("/{model}/{name}/{number}", summary="A latent's effects, measured if they are not known (scope steer)",
             responses={200: {"content": {"application/json": {"example": _EFFECT_EXAMPLE}}},
                        202: {"description": "Still being measured after a minute: `state` says how far"}})
async def measure_effects(
    request: Request, model: str, name: str, number: PathNumber, tools: ToolsDep
) -> Response:
    """Return the output score and the effects of ablation, as `/effects/{model}/{name}/{number}.json` does."""
    return await effects.measure(request, model, name, number, tools)
