"""Explanations and files of labels for programs: read, written, chosen, deleted, asked of the endpoint, read in."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from app.library import explanations, label_files, stars
from app.pages.api.security import BEARER
from app.pages.dependencies import AdminDep, CatalogDep, EditorDep, SessionDep
from app.pages.explore import explain_latent
from app.pages.explore.explanation_views import explanations_json
from app.pages.sae_page import find_sae, latent_number
from sae.explain.exchange import formats

router = APIRouter(prefix="/api/saes/{model}/{name}", tags=["explanations"], dependencies=[BEARER])

_PLACE = "/latents/{number}/explanations"
_GONE = "There is no such explanation here, or it is not yours."


class ExplanationOut(BaseModel):
    """An explanation of a latent."""

    id: str
    text: str
    kind: str = Field(description="rule, person or model")
    author: str
    method: str
    model: str = Field(description="The language model that wrote it, or empty")
    prompt_version: str
    run: str
    created: float
    chosen: bool = Field(description="Whether it is the latent's name")
    scores: list[dict[str, Any]] = Field(description="scorer, value, interval, F1, number of texts, details")


class ExplanationIn(BaseModel):
    """Your explanation of a latent."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"text": "the receiver of a method, mostly `self`"}]})

    text: str


class ChoiceIn(BaseModel):
    """Whether an explanation is the latent's name."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"chosen": True}]})

    chosen: bool


class LabelFileIn(BaseModel):
    """Labels, as `labels.json` of the SAE has them."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"labels": [{"latent": 39, "text": "the word self", "tags": "python", "starred": True}]}]})

    labels: list[dict[str, Any]]


class ImportedOut(BaseModel):
    """Counts of the latents that had no label before, another one, and the same one."""

    new: int
    replaced: int
    unchanged: int


class ExplanationFilesIn(BaseModel):
    """Files of explanations on the server."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"path": "/data/explanations.jsonl"}]})

    path: str = Field(min_length=1, description="A file or folder of Neuronpedia, delphi, SAEBench or saescope")
    source: str = Field(default="", description="One of several sources in the files")


class AddedOut(BaseModel):
    """The number of explanations and scores that were new."""

    added: int


@router.get(_PLACE, summary="A latent's explanations with their scores")
def read_explanations(
    model: str, name: str, number: str, db: SessionDep, catalog: CatalogDep
) -> list[ExplanationOut]:
    sae = find_sae(catalog, model, name)
    return [ExplanationOut(**one) for one in explanations_json(db, sae, latent_number(sae, number))]


@router.post(_PLACE, status_code=201, summary="Explain a latent yourself (scope write)")
def write_explanation(
    model: str, name: str, number: str, body: ExplanationIn, db: SessionDep, catalog: CatalogDep, user: EditorDep
) -> ExplanationOut:
    sae = find_sae(catalog, model, name)
    latent = latent_number(sae, number)
    made = explanations.write(db, sae.id, latent, body.text, user.name).id
    db.commit()
    return ExplanationOut(**next(one for one in explanations_json(db, sae, latent) if one["id"] == made))


@router.put(_PLACE + "/{explanation}/chosen", summary="Name a latent by an explanation, or not (scope write)")
def choose_explanation(
    model: str, name: str, number: str, explanation: str, body: ChoiceIn, db: SessionDep, catalog: CatalogDep,
    user: EditorDep,
) -> ChoiceIn:
    sae = find_sae(catalog, model, name)
    if not explanations.choose(db, sae.id, latent_number(sae, number), explanation, body.chosen):
        raise HTTPException(404, _GONE)
    db.commit()
    return body


@router.delete(_PLACE + "/{explanation}", status_code=204, summary="Delete an explanation of yours (scope write)")
def delete_explanation(
    model: str, name: str, number: str, explanation: str, db: SessionDep, catalog: CatalogDep, user: EditorDep
) -> None:
    sae = find_sae(catalog, model, name)
    author = None if user.is_admin else user.name
    if not explanations.remove(db, sae.id, latent_number(sae, number), explanation, author):
        raise HTTPException(404, _GONE)
    db.commit()


@router.post(_PLACE + "/ask", status_code=201, summary="Ask the endpoint to explain a latent (administrators)")
async def ask_endpoint(
    request: Request, model: str, name: str, number: str, admin: AdminDep, db: SessionDep
) -> list[ExplanationOut]:
    """Wait for the answer, and return all explanations of the latent.  One answer may cost money."""
    state = request.app.state
    await run_in_threadpool(db.close)  # nobody who only waits holds a connection to the database
    live = await explain_latent.ask_and_wait(state, model, name, number)
    sae = await run_in_threadpool(find_sae, state.catalog, model, name)
    return [ExplanationOut(**one) for one in await run_in_threadpool(explanations_json, db, sae, live.latent)]


@router.put("/labels", summary="Store many labels, all or none (scope write)", tags=["labels"])
def store_labels(
    model: str, name: str, body: LabelFileIn, db: SessionDep, catalog: CatalogDep, user: EditorDep
) -> ImportedOut:
    """Replace the labels of the latents that are named; what a row leaves out stays unchanged."""
    sae = find_sae(catalog, model, name)
    rows = label_files.read(json.dumps(body.model_dump()).encode(), sae)
    done = label_files.store(db, sae, rows, user.name, partial(stars.put, db, user, sae.id))
    return ImportedOut(new=done.new, replaced=done.replaced, unchanged=done.unchanged)


@router.post("/explanations", summary="Add the explanations of files on the server (administrators)")
def read_files(
    request: Request, model: str, name: str, body: ExplanationFilesIn, catalog: CatalogDep, admin: AdminDep
) -> AddedOut:
    """Add explanations and scores to those of the SAE."""
    sae = find_sae(catalog, model, name)
    records = formats.read(Path(body.path).expanduser(), sae.n_latents, body.source)
    added = formats.add(request.app.state.settings.workspace.sae(sae.id), records)
    catalog.sync_if_changed()
    return AddedOut(added=added)
