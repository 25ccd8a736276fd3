"""Items of a folder of vectors on a latent's page: the strongest ones as images or links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

from app.db.tables import Sae
from app.pages.dependencies import BuildsDep, CatalogDep
from app.pages.sae_page import find_sae, open_build
from app.render.token_text import Row
from app.web.parameters import PathNumber
from sae.lm.item_links import Item, image_of, items_of
from sae.lm.model_info import DEMO
from sae.store.build import Build

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class ShownItem:
    """The item at a context's peak."""

    text: str
    url: str
    image: str  # address of the image
    act: float


def shown_items(sae: Sae, build: Build, bands: Mapping[str, Sequence[Row]]) -> dict[str, list[ShownItem]]:
    """Return the items at the peaks of each band's contexts that have a link or an image, each once.

    {} for an SAE of a language model.
    """
    folder = _folder(sae)
    return {} if folder is None else {key: _of_band(sae, folder, build, rows) for key, rows in bands.items()}


def _of_band(sae: Sae, folder: Path, build: Build, rows: Sequence[Row]) -> list[ShownItem]:
    peaks = {row.context.tokens[row.context.peak]: row for row in reversed(rows)}
    found = _items(folder, build, peaks)
    return [ShownItem(item.text, item.url, f"/{sae.id}/item/{token}" if item.image else "", row.context.act)
            for token, row in reversed(peaks.items()) if (item := found.get(token)) is not None]


@router.get("/{model}/{name}/item/{token}")
def item_image(model: str, name: str, token: PathNumber, catalog: CatalogDep, builds: BuildsDep) -> FileResponse:
    """Send the image of an item."""
    sae = find_sae(catalog, model, name)
    folder = _folder(sae)
    with open_build(builds, sae) as build:
        item = _items(folder, build, [token]).get(token) if folder else None
    found = image_of(folder, item.image) if folder and item and item.image else None
    if found is None:
        raise HTTPException(404, f"{sae.id} has no image of item {token}.")
    path, kind = found
    return FileResponse(path, media_type=kind, headers={
        "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, max-age=3600"})


def _folder(sae: Sae) -> Path | None:
    """Return the folder of vectors that an SAE was trained on; None for a language model."""
    name = str(sae.config["model"]["name"])
    if name == DEMO:
        return None
    path = Path(name).expanduser()
    return path if path.is_dir() and not (path / "config.json").exists() else None


def _items(folder: Path, build: Build, tokens: Iterable[int]) -> dict[int, Item]:
    """Return the items of tokens; those that are not what the build says are left out: the folder has changed."""
    return {token: item for token, item in items_of(folder, tokens).items()
            if token in build.vocabulary and build.vocabulary[token].piece == f"{item.text}\n".encode()}
