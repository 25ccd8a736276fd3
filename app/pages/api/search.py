"""The latents that are active on a text, over all SAEs of a model, for programs."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from app.pages.api.security import BEARER
from app.pages.dependencies import ToolsDep
from app.pages.find.active import TextSearch, chosen_saes
from app.pages.inspect.text_search import label_texts, search, search_json

router = APIRouter(prefix="/api/search", tags=["latents"], dependencies=[BEARER])

_SAE = "demo/2-res-batchtopk-4k"


class TextSearchIn(BaseModel):
    """A text, and the SAEs that read it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"text": "def read(self):", "model": "demo", "rank": "surprise", "top": 5},
        {"text": "def read(self):", "sae": _SAE}]})

    text: str = Field(description="The text; its special tokens do not count")
    model: str = Field(default="", description="All SAEs of this model read it; left out: the model of the best SAE")
    sae: str = Field(default="", description="This SAE alone reads it")
    rank: Literal["max", "sum", "surprise"] = "max"
    dense: bool = Field(default=False, description="Also list latents that fire on a tenth of all tokens or more")
    top: int = Field(default=50, ge=1, le=1000)


class ActiveLatentOut(BaseModel):
    """A latent that is active on the text."""

    sae: str
    latent: int
    label: str
    score: float = Field(description="By which the list is sorted. max and sum are in units of the latent's own "
                         "maximum in the text of its index, surprise is in bits")
    max: float
    sum: float
    n: int = Field(description="Number of tokens on which it fires")
    peak: int = Field(description="The position of the maximum")
    token: str = Field(description="The token there")
    surprise: float
    density: float
    max_act: float


class TextSearchOut(BaseModel):
    """The latents that are active on a text, best first, of all SAEs in one list."""

    text: str
    saes: list[str] = Field(description="The SAEs that have read the text")
    rank: str
    tokens: list[str] = Field(description="The text's tokens, BOS first")
    latents: list[ActiveLatentOut]


@router.post("/text", summary="The latents that are active on a text, over all SAEs of a model (scope read)")
async def search_text(body: TextSearchIn, tools: ToolsDep) -> TextSearchOut:
    """Read the text with all SAEs in one pass of the model, and rank their latents in one list."""
    saes = await run_in_threadpool(chosen_saes, tools, body.model, body.sae)
    asked = TextSearch(body.text.replace("\r\n", "\n"), saes, body.rank, body.dense, body.top)
    text, found = await search(tools, asked)
    return TextSearchOut(**await run_in_threadpool(
        lambda: search_json(asked, text, found, label_texts(tools, found))))
