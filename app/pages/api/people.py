"""Comments and stars for programs, and the log of administrators' changes."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict

from app.access import audit
from app.library import comments, stars
from app.pages.api.security import BEARER
from app.pages.dependencies import AdminDep, CatalogDep, EditorDep, SessionDep, SignedInDep
from app.pages.sae_page import find_sae, latent_number
from app.web.parameters import PathNumber, QueryNumber

router = APIRouter(prefix="/api", dependencies=[BEARER])


class CommentIn(BaseModel):
    """A comment on a latent."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"text": "Silent in class methods: try `cls`."}]})

    text: str


class CommentOut(BaseModel):
    """A comment on a latent."""

    id: int
    text: str
    author: str
    created: float


class StarIn(BaseModel):
    """Whether you star the latent."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"starred": True}]})

    starred: bool


class LogEntryOut(BaseModel):
    """A change that an administrator made."""

    id: int
    at: float
    user: str
    action: str
    path: str
    detail: str


@router.get("/saes/{model}/{name}/latents/{number}/comments", summary="The comments on a latent, oldest first",
            tags=["labels"])
def read_comments(model: str, name: str, number: str, db: SessionDep, catalog: CatalogDep) -> list[CommentOut]:
    sae = find_sae(catalog, model, name)
    return [CommentOut(id=one.id, text=one.text, author=one.author, created=one.created)
            for one in comments.of_latent(db, sae.id, latent_number(sae, number))]


@router.post("/saes/{model}/{name}/latents/{number}/comments", status_code=201,
             summary="Comment on a latent (scope write)", tags=["labels"])
def write_comment(
    model: str, name: str, number: str, body: CommentIn, db: SessionDep, catalog: CatalogDep, user: EditorDep
) -> CommentOut:
    sae = find_sae(catalog, model, name)
    one = comments.write(db, sae.id, latent_number(sae, number), body.text, user.name)
    return CommentOut(id=one.id, text=one.text, author=one.author, created=one.created)


@router.delete("/saes/{model}/{name}/latents/{number}/comments/{comment}", status_code=204,
               summary="Delete your comment (scope write)", tags=["labels"])
def delete_comment(
    model: str, name: str, number: str, comment: PathNumber, db: SessionDep, catalog: CatalogDep, user: SignedInDep
) -> None:
    sae = find_sae(catalog, model, name)
    found = comments.find(db, sae.id, latent_number(sae, number), comment)
    if found is None:
        raise HTTPException(404, "There is no such comment. It may have been deleted.")
    if not (user.is_admin or found.author == user.name):
        raise HTTPException(403, f"Only {found.author} and administrators can delete this comment.")
    comments.remove(db, found)


@router.get("/saes/{model}/{name}/stars", summary="Your starred latents of an SAE", tags=["labels"])
def read_stars(model: str, name: str, db: SessionDep, catalog: CatalogDep, user: SignedInDep) -> list[int]:
    return sorted(stars.of_user(db, user, find_sae(catalog, model, name).id))


@router.put("/saes/{model}/{name}/latents/{number}/star", summary="Star a latent, or remove your star (scope write)",
            tags=["labels"])
def put_star(
    model: str, name: str, number: str, body: StarIn, db: SessionDep, catalog: CatalogDep, user: SignedInDep
) -> StarIn:
    sae = find_sae(catalog, model, name)
    stars.put(db, user, sae.id, latent_number(sae, number), on=body.starred)
    db.commit()
    return body


@router.get("/log", summary="What administrators did, newest first (administrators)", tags=["people"])
def read_log(
    db: SessionDep, admin: AdminDep, before: QueryNumber | None = None,
) -> list[LogEntryOut]:
    """Return a hundred entries; `before` is the id of the last one that you have."""
    return [LogEntryOut(id=one.id, at=one.at, user=one.user, action=one.action, path=one.path, detail=one.detail)
            for one in audit.entries(db, before)]
