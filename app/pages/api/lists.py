"""Named lists of latents for programs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.db.people_tables import LatentList
from app.library import lists
from app.pages.api.security import BEARER
from app.pages.dependencies import CatalogDep, EditorDep, SessionDep, ToolsDep
from app.pages.lists.run_text import run_text
from app.pages.lists.views import find_list, labels_of
from app.pages.sae_page import find_sae, latent_number

router = APIRouter(prefix="/api/lists", tags=["lists"], dependencies=[BEARER])

_PATIENCE_S = 60.0
_SAE = "demo/2-res-batchtopk-4k"


class ListIn(BaseModel):
    """A list to make."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"name": "receivers", "description": "Latents about self", "test_text": "def read(self):"}]})

    name: str
    description: str = ""
    test_text: str = Field(default="", description="The text that the list's page runs through its latents")


class ListChange(BaseModel):
    """A change of a list; what is left out stays unchanged."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"test_text": "class Reader:"}]})

    name: str | None = None
    description: str | None = None
    test_text: str | None = None


class MemberIn(BaseModel):
    """A latent's note; left out, the note stays as it is."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"note": "also in comments"}]})

    note: str | None = None


class MemberOut(BaseModel):
    """A latent of a list."""

    sae: str
    latent: int
    label: str
    note: str
    author: str = Field(description="The user who added it")
    added: float


class ListOut(BaseModel):
    """A list."""

    id: str
    name: str
    description: str
    test_text: str
    author: str
    created: float
    updated: float
    url: str = Field(description="Its page, for sharing")
    n: int = Field(description="Number of latents")


class WholeListOut(ListOut):
    """A list with its latents, in the order in which they were added."""

    latents: list[MemberOut]


class OnTextOut(BaseModel):
    """A latent of a list on the text: its activation on each token."""

    sae: str
    latent: int
    max: float
    n: int = Field(description="Number of tokens on which it fires")
    share: float | None = Field(description="`max` in units of the latent's own maximum in the text of its index")
    tokens: list[str]
    acts: list[float]


@router.get("", summary="All lists, the last changed first")
def read_lists(db: SessionDep) -> list[ListOut]:
    return [ListOut(**_values(one, n)) for one, n in lists.every(db)]


@router.post("", status_code=201, summary="Make a list (scope write)")
def create_list(body: ListIn, db: SessionDep, user: EditorDep) -> WholeListOut:
    return _whole(db, lists.create(db, user.name, body.name, body.description, body.test_text))


@router.get("/{list_id}", summary="A list with its latents")
def read_list(list_id: str, db: SessionDep) -> WholeListOut:
    return _whole(db, find_list(db, list_id))


@router.patch("/{list_id}", summary="Change name, description or test text (scope write)")
def change_list(list_id: str, body: ListChange, db: SessionDep, user: EditorDep) -> WholeListOut:
    one = find_list(db, list_id)
    lists.change(db, one, body.name, body.description, body.test_text)
    return _whole(db, one)


@router.delete("/{list_id}", status_code=204, summary="Delete a list (scope write)")
def delete_list(list_id: str, db: SessionDep, user: EditorDep) -> None:
    lists.remove(db, find_list(db, list_id))


@router.put("/{list_id}/latents/{model}/{name}/{number}", summary="Add a latent, or change its note (scope write)")
def put_latent(
    list_id: str, model: str, name: str, number: str, body: MemberIn, db: SessionDep, user: EditorDep,
    catalog: CatalogDep,
) -> WholeListOut:
    one, sae = find_list(db, list_id), find_sae(catalog, model, name)
    lists.put(db, one, sae.id, latent_number(sae, number), user.name, body.note)
    return _whole(db, one)


@router.delete("/{list_id}/latents/{model}/{name}/{number}", summary="Remove a latent from a list (scope write)")
def take_out(list_id: str, model: str, name: str, number: str, db: SessionDep, user: EditorDep) -> WholeListOut:
    """Remove it, also if its SAE is not here any more."""
    one = find_list(db, list_id)
    if number.isascii() and number.isdigit() and len(number) < 10:
        lists.take_out(db, one, f"{model}/{name}", int(number))
    return _whole(db, one)


@router.get("/{list_id}/text", summary="Run a text through every latent of a list")
async def run_test_text(
    list_id: str, tools: ToolsDep,
    text: Annotated[str, Query(description="Left out: the list's own test text")] = "",
) -> list[OnTextOut]:
    """Return each latent's activations, BOS first.  Latents of SAEs without weights are left out."""
    one = await run_in_threadpool(find_list, tools.db, list_id)
    members = await run_in_threadpool(lists.members, tools.db, one.id)
    done = await run_text(tools, members, (text or one.test_text).replace("\r\n", "\n"), _PATIENCE_S)
    if done.fault or done.waiting:
        raise HTTPException(503 if done.waiting else done.status, done.fault or done.waiting)
    return [OnTextOut(sae=row.sae, latent=row.latent, max=row.max, n=row.n, share=row.share, tokens=row.tokens,
                      acts=row.acts) for row in done.rows]


def _values(one: LatentList, n: int) -> dict[str, Any]:
    return {"id": one.id, "name": one.name, "description": one.description, "test_text": one.test_text,
            "author": one.author, "created": one.created, "updated": one.updated, "url": f"/lists/{one.id}", "n": n}


def _whole(db: Session, one: LatentList) -> WholeListOut:
    members = lists.members(db, one.id)
    return WholeListOut(**_values(one, len(members)), latents=[
        MemberOut(**row) for row in lists.rows(members, labels_of(db, members))])
