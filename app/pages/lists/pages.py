"""Named lists of latents: all lists, one list with a text run through its members, and the forms that change it."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.db.people_tables import LatentList
from app.library import lists
from app.pages.dependencies import CatalogDep, EditorDep, SessionDep, Tools, ToolsDep, UserDep
from app.pages.find.latents import find_scope
from app.pages.find.phrase import read_phrase
from app.pages.lists.finder import Finder, finder
from app.pages.lists.run_text import TextRun, run_text
from app.pages.lists.views import find_list, labels_of, member_rows
from app.pages.sae_page import find_sae, latent_number
from app.web.parameters import whole_number
from app.web.templating import is_htmx, render
from app.worker.cached_requests import PATIENCE_S
from sae.errors import UserError

router = APIRouter(prefix="/lists", include_in_schema=False)

Line = Annotated[str, Form(max_length=1_000)]
Long = Annotated[str, Form()]


@router.get(".json")
def lists_json(db: SessionDep) -> JSONResponse:
    """Return all lists."""
    return JSONResponse([{"id": one.id, "name": one.name, "description": one.description, "author": one.author,
                          "updated": one.updated, "n": n, "url": f"/lists/{one.id}"} for one, n in lists.every(db)])


@router.get("")
def show_lists(request: Request, db: SessionDep) -> Response:
    """Show all lists, with the form that makes one."""
    return _all(request, db)


@router.post("")
def create_list(
    request: Request, db: SessionDep, user: EditorDep, catalog: CatalogDep, name: Line = "", description: Long = "",
    sae: Line = "", latent: Line = "",
) -> Response:
    """Make a list, with a first latent if one is given."""
    first = _latent(catalog, sae, latent) if sae else None
    try:
        made = lists.create(db, user.name, name, description)
    except UserError as error:
        if first is not None:
            return _choose(request, db, *first, error=error)
        return _all(request, db, error, name, description)
    if first is not None:
        lists.put(db, made, *first, user.name)
    return RedirectResponse(f"/lists/{made.id}", 303)


@router.get("/add")
def choose_list(
    request: Request, db: SessionDep, user: EditorDep, catalog: CatalogDep, sae: str = "", latent: str = "",
) -> Response:
    """Let an editor choose the list that gets a latent."""
    return _choose(request, db, *_latent(catalog, sae, latent))


@router.get("/{list_id}.json")
def list_json(list_id: str, db: SessionDep) -> Response:
    """Return a list with its members as a file."""
    one = find_list(db, list_id)
    return _file(lists.as_json(one, _file_rows(db, one)), "application/json", f"list-{one.id}.json")


@router.get("/{list_id}.csv")
def list_csv(list_id: str, db: SessionDep) -> Response:
    """Return the members of a list as CSV."""
    one = find_list(db, list_id)
    return _file(lists.as_csv(_file_rows(db, one)), "text/csv", f"list-{one.id}.csv")


@router.get("/{list_id}/text")
async def run_test_text(request: Request, list_id: str, tools: ToolsDep, text: str = "") -> Response:
    """Run a text through all members: on the list's page, or for htmx alone."""
    one = await run_in_threadpool(find_list, tools.db, list_id)
    tested, error = await _tested(tools, one, text)
    if is_htmx(request):
        return await run_in_threadpool(
            render, request, "lists/_tested.html", one=one, text=text, tested=tested, error=error)
    return await run_in_threadpool(
        _page, request, tools.db, tools, one, text=text, tested=tested, text_error=error,
        status=422 if error else tested.status if tested else 200)


async def _tested(tools: Tools, one: LatentList, text: str) -> tuple[TextRun | None, str]:
    members = await run_in_threadpool(lists.members, tools.db, one.id)
    try:
        return await run_text(tools, members, text.replace("\r\n", "\n"), PATIENCE_S), ""
    except UserError as error:
        return None, str(error).removeprefix("text: ")


@router.get("/{list_id}")
async def show_list(
    request: Request, list_id: str, tools: ToolsDep, user: UserDep, q: str = "", within: str = "", read: str = "",
) -> Response:
    """Show a list, for editors with latents that fit `q`; with `read=1` those are found, too, that are active on it.

    htmx gets the found latents alone.
    """
    text, said, may_write = q.strip()[:200], None, user is not None and (user.is_editor or user.is_admin)
    scope = await run_in_threadpool(find_scope, tools.catalog, within)
    if may_write and read == "1":  # before the database is used, so that no connection waits for the model
        said = await read_phrase(tools, scope, text)

    def made() -> Response:
        one = find_list(tools.db, list_id)
        found = finder(tools, one, scope, text, said) if may_write else None
        if found is not None and is_htmx(request):
            return render(request, "lists/_found.html", one=one, finder=found)
        return _page(request, tools.db, tools, one, finder=found)

    return await run_in_threadpool(made)


@router.post("/{list_id}")
def change_list(
    request: Request, list_id: str, tools: ToolsDep, user: EditorDep, name: Line = "", description: Long = "",
    test_text: Long = "",
) -> Response:
    """Change name, description and test text."""
    one = find_list(tools.db, list_id)
    try:
        lists.change(tools.db, one, name, description, test_text)
    except UserError as error:
        tools.db.rollback()
        sent = {"name": name, "description": description, "test_text": test_text}
        return _page(request, tools.db, tools, one, error=error, sent=sent, status=422)
    return RedirectResponse(f"/lists/{one.id}", 303)


@router.post("/{list_id}/latents")
def put_latent(
    list_id: str, db: SessionDep, user: EditorDep, catalog: CatalogDep, sae: Line = "", latent: Line = "",
    note: Annotated[str | None, Form()] = None, q: Line = "", within: Line = "",
) -> Response:
    """Add a latent, or change the note of one.  `q` and `within` are the search that found it, which is shown again."""
    one = find_list(db, list_id)
    lists.put(db, one, *_latent(catalog, sae, latent), user.name, note)
    search = f"?{urlencode({'q': q, 'within': within})}#add" if q else ""
    return RedirectResponse(f"/lists/{one.id}{search}", 303)


@router.post("/{list_id}/latents/remove")
def take_out(
    list_id: str, db: SessionDep, user: EditorDep, catalog: CatalogDep, sae: Line = "", latent: Line = "",
) -> Response:
    """Remove a latent from the list."""
    one, number = find_list(db, list_id), whole_number(latent)
    if number is not None:
        lists.take_out(db, one, catalog.present_id(sae), number)
    return RedirectResponse(f"/lists/{one.id}", 303)


@router.get("/{list_id}/delete")
def ask_delete(request: Request, list_id: str, db: SessionDep, user: EditorDep) -> Response:
    """Ask for confirmation on a page, which works without JavaScript."""
    one = find_list(db, list_id)
    return render(request, "lists/delete.html", section="lists", one=one, n=len(lists.members(db, one.id)))


@router.post("/{list_id}/delete")
def delete_list(list_id: str, db: SessionDep, user: EditorDep, sure: Annotated[str, Form()] = "") -> Response:
    """Delete the list.  Its latents keep their labels and notes of their own."""
    one = find_list(db, list_id)
    if sure != "yes":
        return RedirectResponse(f"/lists/{one.id}/delete", 303)
    lists.remove(db, one)
    return RedirectResponse("/lists", 303)


def _latent(catalog: CatalogDep, sae_id: str, latent: str) -> tuple[str, int]:
    """Return the latent of a form.  Raises 404 with links to the nearest ones."""
    model, _, name = catalog.present_id(sae_id.strip()).partition("/")
    sae = find_sae(catalog, model, name)
    return sae.id, latent_number(sae, latent)


def _file_rows(db: Session, one: LatentList) -> list[dict[str, Any]]:
    members = lists.members(db, one.id)
    return lists.rows(members, labels_of(db, members))


def _file(text: str, kind: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(text.encode(), media_type=f"{kind}; charset=utf-8", headers=headers)


def _all(
    request: Request, db: Session, error: UserError | None = None, name: str = "", description: str = "",
) -> Response:
    return render(
        request, "lists/all.html", 422 if error else 200, section="lists", lists=lists.every(db), list_name=name,
        description=description, json_url="/lists.json", **_fault(error))


def _choose(
    request: Request, db: Session, sae_id: str, latent: int, error: UserError | None = None,
) -> Response:
    inside = {one.id for one in lists.with_latent(db, sae_id, latent)}
    return render(
        request, "lists/add.html", 422 if error else 200, section="lists", sae_id=sae_id, latent=latent,
        lists=[(one, n, one.id in inside) for one, n in lists.every(db)], **_fault(error))


def _page(
    request: Request, db: Session, tools: Tools, one: LatentList, *, text: str | None = None,
    tested: TextRun | None = None, text_error: str = "", error: UserError | None = None,
    sent: dict[str, str] | None = None, status: int = 200, finder: Finder | None = None,
) -> Response:
    members = lists.members(db, one.id)
    fields = sent or {"name": one.name, "description": one.description, "test_text": one.test_text}
    return render(
        request, "lists/list.html", status, section="lists", one=one, fields=fields, text=one.test_text if text is None
        else text, asked=text is not None, tested=tested, error=text_error, rows=member_rows(
            db, tools.catalog, tools.builds, members), json_url=f"/lists/{one.id}.json", finder=finder, **_fault(error))


def _fault(error: UserError | None) -> dict[str, Any]:
    return {"errors": {error.field or "": str(error).removeprefix(f"{error.field}: ")} if error else {}}
