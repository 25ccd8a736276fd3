"""The user guide: the chapters of `docs/guide`, with a search over their sections."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from app.render.markdown import Document, Section, read
from app.resources import GUIDE
from app.web.errors import NotHere
from app.web.templating import render

router = APIRouter(include_in_schema=False)

MOST = 30  # sections that a search lists
_SHOWN = 160  # characters of a section in the list


@dataclass(frozen=True)
class Hit:
    """A section that a search found, with the text around the first of the words."""

    chapter: str
    chapter_title: str
    section: Section
    excerpt: str


@cache
def chapters() -> dict[str, Document]:
    """Return the chapters by name: `index`, then those that it links to, in its order."""
    index = read((GUIDE / "index.md").read_text(encoding="utf-8"), "/docs")
    names = dict.fromkeys(link.partition(".md")[0] for link in index.links if re.match(r"[\w-]+\.md", link))
    return {"index": index} | {
        name: read((GUIDE / f"{name}.md").read_text(encoding="utf-8"), "/docs") for name in names}


def search(text: str) -> list[Hit]:
    """Return the sections that contain every word of `text`, those with the words in their headings first."""
    words = text.lower().split()
    found: list[tuple[int, Hit]] = []
    for name, document in chapters().items():
        for section in document.sections:
            heading, body = section.title.lower(), section.text.lower()
            if words and all(word in heading or word in body for word in words):
                at = max(0, min((body.find(word) for word in words if word in body), default=0) - 40)
                hit = Hit(name, document.title, section, section.text[at : at + _SHOWN])
                found.append((-sum(word in heading for word in words), hit))
    return [hit for _, hit in sorted(found, key=lambda pair: pair[0])][:MOST]


@router.get("/docs")
def index(request: Request, q: str = "") -> Response:
    """Show the contents of the guide, or what a search finds in it."""
    if not q.strip():
        return _page(request, "index")
    return render(request, "system/guide.html", chapters=chapters(), shown="", document=None, q=q[:200],
                  hits=search(q[:200]), before=None, after=None)


@router.get("/docs/notebook.ipynb")
def notebook() -> Response:
    """Send the notebook that the chapter about the API names."""
    return FileResponse(GUIDE / "notebook.ipynb", media_type="application/x-ipynb+json")


@router.get("/docs/{name}")
def chapter(request: Request, name: str) -> Response:
    """Show a chapter."""
    if name not in chapters():
        raise NotHere(f"The guide has no chapter {name[:60]!r}.", ("The guide", "/docs"))
    return _page(request, name)


def _page(request: Request, name: str) -> Response:
    names = list(chapters())
    place = names.index(name)
    return render(
        request, "system/guide.html", chapters=chapters(), shown=name, document=chapters()[name], q="", hits=[],
        before=names[place - 1] if place else None, after=names[place + 1] if place + 1 < len(names) else None)
