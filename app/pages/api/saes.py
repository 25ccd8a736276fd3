"""Models, SAEs, latents and labels for programs.

Each answer is made by the page that shows the same.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.db.tables import Label, User
from app.library import labels, stars
from app.pages.api.security import BEARER
from app.pages.dependencies import BuildsDep, CatalogDep, EditorDep, SessionDep, UserDep
from app.pages.explore import latent, latents, search
from app.pages.runs.api import SaeOut, sae_out
from app.pages.sae_page import find_sae, latent_number

router = APIRouter(prefix="/api", dependencies=[BEARER])

_TABLE_EXAMPLE = {
    "total": 17, "next": "WzQ0LjE4LCAzOV0", "sort": "lift", "descending": True, "token": 288, "logit": None,
    "latents": [{"latent": 39, "n_tokens": 231, "density": 0.0189, "max_act": 32.3, "mean_act": 7.6, "flags": [],
                 "token_n": 36, "token_lift": 44.2}],
    "output_scores": {}}
_SEARCH_EXAMPLE = {
    "q": "self", "numbers": [], "labels": [],
    "tokens": {"demo/2-res-batchtopk-4k": [
        {"token": "self", "latents": "/demo/2-res-batchtopk-4k/latents?token=%23288", "n": 43}]},
    "latents": [{
        "sae": "demo/2-res-batchtopk-4k", "latent": 39, "score": 2.2, "label": "self", "density": 0.0189,
        "reasons": [{"kind": "fires", "score": 1.3, "words": "fires on", "tokens": ["self"],
                     "value": "lift 44.2×, 16% of its firings", "token": 288}]}]}
_LATENT_EXAMPLE = {
    "latent": {"latent": 39, "density": 0.0189, "max_act": 32.3, "top_tokens": [
        {"token": 288, "n": 36, "lift": 44.2, "max_act": 23.2}], "logit_pos": [[288, 2.4]], "flags": []},
    "contexts": [{"band": 0, "rank": 0, "act": 32.3, "document": "heapq.py", "peak": 2, "tokens": [0, 12, 288],
                  "acts": [0.0, 0.0, 32.3]}],
    "tokens": {"0": "<|endoftext|>", "12": ",", "288": "self"}}


def _example(values: object) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": values}}}}


class ModelOut(BaseModel):
    """A language model of the workspace."""

    model: str = Field(description="Its segment of the address")
    id: str = Field(description="The model's own name or path")
    saes: list[str] = Field(description="Its SAEs, newest first")
    url: str


class EarlierLabelOut(BaseModel):
    """A replaced label."""

    text: str
    note: str
    tags: list[str]
    author: str
    updated: float


class LabelOut(BaseModel):
    """What people have written about a latent.  Without a label, `version` is 0."""

    sae: str
    latent: int
    text: str
    note: str
    tags: list[str]
    starred: bool = Field(description="Whether you have starred it")
    author: str
    updated: float | None
    version: int = Field(description="The number of changes; send it back with a change, so that none is lost")
    earlier: list[EarlierLabelOut] = Field(default=[], description="Replaced labels, newest first")


class LabelIn(BaseModel):
    """A change of a label; what is left out stays unchanged."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"text": "the word self", "tags": ["python"], "version": 0}]})

    text: str | None = None
    note: str | None = None
    tags: list[str] | None = None
    starred: bool | None = None
    version: int | None = Field(
        default=None, ge=0, description="The version that you read, 0 for no label. Somebody's change since then gives "
        "409, and nothing is stored. Left out: the label is replaced whatever it is")


class TableQuery(BaseModel):
    """Sort and filters of the latent table, as in its address."""

    sort: str = Field(default="", description="A column: latent, density, max_act, mean_act, lift, label, …")
    dir: str = Field(default="", description="desc: largest first")
    flag: list[str] = Field(default=[], description="alive, dead, dense, rare, …; several must all hold")
    density: str = Field(default="", description="1e-5, 1e-4, 1e-3, 1e-2, 1e-1 or 1: the upper end of a range")
    token: str = Field(default="", description="A token on which they fire, as text or #id")
    logit: str = Field(default="", description="A token whose logit they raise, as text or #id")
    label: str = Field(default="", description="A part of the label, note or an explanation")
    labelled: str = Field(default="", description="1: only labelled ones")
    tag: str = ""
    starred: str = Field(default="", description="1: only starred ones")
    cursor: str = Field(default="", description="`next` of the page before")
    limit: int = Field(default=50, ge=0, lt=2**31)


@router.get("/models", summary="Every language model that has SAEs here", tags=["saes"])
def list_models(catalog: CatalogDep) -> list[ModelOut]:
    found: dict[str, ModelOut] = {}
    for sae in catalog.list_saes():
        of_model = ModelOut(model=sae.model, id=str(sae.config["model"]["name"]), saes=[], url=f"/{sae.model}")
        found.setdefault(sae.model, of_model).saes.append(sae.id)
    return sorted(found.values(), key=lambda one: one.model)


@router.get("/saes/{model}/{name}", summary="One SAE", tags=["saes"])
def read_sae(model: str, name: str, catalog: CatalogDep) -> SaeOut:
    return sae_out(find_sae(catalog, model, name))


@router.get("/search", summary="Latents that fit a text, best first", tags=["latents"],
            responses=_example(_SEARCH_EXAMPLE))
def search_latents(
    db: SessionDep, catalog: CatalogDep, builds: BuildsDep,
    q: Annotated[str, Query(description="A word, a label, or a latent's number")] = "",
    sae: Annotated[str, Query(description="Search this SAE alone")] = "",
) -> Response:
    """Search labels, explanations, notes, comments, tags and rules, and tokens that latents fire on or raise."""
    return search.search_json(db, catalog, builds, q, sae)


@router.get("/saes/{model}/{name}/latents", summary="A page of the latent table", tags=["latents"],
            responses=_example(_TABLE_EXAMPLE))
def read_table(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep,
    user: UserDep, query: Annotated[TableQuery, Query()],
) -> Response:
    return latents.latents_json(request, model, name, db, catalog, builds, user, query.cursor, query.limit)


@router.get("/saes/{model}/{name}/latents/{number}", summary="All that the build knows of a latent", tags=["latents"],
            responses=_example(_LATENT_EXAMPLE))
def read_latent(
    request: Request, model: str, name: str, number: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep
) -> Response:
    """Return its statistics, contexts and explanations.  `tokens` has the text of every token id in the answer."""
    return latent.latent_json(request, model, name, number, db, catalog, builds)


@router.get("/saes/{model}/{name}/labels", summary="Every label of an SAE", tags=["labels"])
def list_labels(model: str, name: str, db: SessionDep, catalog: CatalogDep, user: UserDep) -> list[LabelOut]:
    sae = find_sae(catalog, model, name)
    mine = stars.of_user(db, user, sae.id) if user else frozenset[int]()
    return [_label_out(sae.id, row.latent, row, row.latent in mine) for row in labels.everything(db, sae.id)]


@router.get("/saes/{model}/{name}/latents/{number}/label", summary="A latent's label and earlier ones", tags=["labels"])
def read_label(
    model: str, name: str, number: str, db: SessionDep, catalog: CatalogDep, user: UserDep
) -> LabelOut:
    sae = find_sae(catalog, model, name)
    return _with_history(db, user, sae.id, latent_number(sae, number))


@router.put("/saes/{model}/{name}/latents/{number}/label", summary="Change a latent's label (scope write)",
            tags=["labels"], response_model=LabelOut,
            responses={409: {"description": "Somebody else changed it: `theirs` is what is stored"}})
def write_label(
    model: str, name: str, number: str, body: LabelIn, db: SessionDep, catalog: CatalogDep, user: EditorDep
) -> LabelOut | Response:
    sae = find_sae(catalog, model, name)
    place = latent_number(sae, number)
    try:
        labels.save(
            db, sae.id, place, user.name, text=body.text, note=body.note, seen=body.version,
            tags=None if body.tags is None else ",".join(body.tags))
        if body.starred is not None:
            stars.put(db, user, sae.id, place, on=body.starred)
            db.commit()
    except labels.LabelConflict as conflict:
        theirs = _label_out(sae.id, place, conflict.theirs, place in stars.of_user(db, user, sae.id))
        return JSONResponse(
            {"error": f"version: {conflict}", "status": 409, "field": "version", "theirs": theirs.model_dump()}, 409)
    return _with_history(db, user, sae.id, place)


def _with_history(db: Session, user: User | None, sae_id: str, number: int) -> LabelOut:
    starred = user is not None and number in stars.of_user(db, user, sae_id)
    shown = _label_out(sae_id, number, labels.get(db, sae_id, number), starred)
    shown.earlier = [EarlierLabelOut(
        text=row.text, note=row.note, tags=_tags(row.tags), author=row.author, updated=row.updated)
        for row in labels.earlier(db, sae_id, number)]
    return shown


def _label_out(sae_id: str, number: int, row: Label | None, starred: bool) -> LabelOut:
    if row is None:
        return LabelOut(sae=sae_id, latent=number, text="", note="", tags=[], starred=starred, author="", updated=None,
                        version=0)
    return LabelOut(
        sae=sae_id, latent=number, text=row.text, note=row.note, tags=_tags(row.tags), starred=starred,
        author=row.author, updated=row.updated, version=row.version)


def _tags(stored: str) -> list[str]:
    return stored.split(", ") if stored else []
