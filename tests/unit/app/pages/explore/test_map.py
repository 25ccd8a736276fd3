"""The page of the map: windows, colours and found latents, all in the address."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.render import plane
from sae.store.map_points import MapPoints
from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.html import json_of, page, text_of

MAP = f"/{BATCH}/map"


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Give the latents places, which the synthetic build does not have."""
    number = np.arange(60)
    points = MapPoints(number, number % 7, number % 5, 10.0 ** -(number % 5))
    if "no_places" not in request.node.name:
        monkeypatch.setattr("app.pages.explore.map.map_points", lambda _: points)
        monkeypatch.setattr("app.pages.explore.map_views.direction_clusters", lambda _: number // 20)


def test_a_build_with_no_places(browsable: TestClient) -> None:
    assert "This build has no map" in page(browsable, MAP)
    assert json_of(browsable, f"{MAP}.json")["points"] == []


def links(html: str) -> dict[str, str]:
    found = re.findall(rf'<a href="({MAP}[^"]*)"[^>]*aria-label="([^"]*)"', html)
    return {name: unescape(href) for href, name in found}


def test_the_map_as_points_and_as_json(browsable: TestClient) -> None:
    html, points = page(browsable, MAP), json_of(browsable, f"{MAP}.json")["points"]
    assert len(points) == 60
    drawing = html[html.index('<svg class="plane"'):]
    assert drawing.count("<circle") == 60
    assert f'href="/{BATCH}/59"' in drawing


def test_many_points_become_cells(browsable: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "POINTS", 10)
    html = page(browsable, MAP)
    drawing = html[html.index('<svg class="plane"'):]
    assert "<circle" not in drawing
    assert drawing.count('class="cell') == 35


def test_buttons_keep_colour_and_word_and_move_the_window(browsable: TestClient) -> None:
    html = page(browsable, f"{MAP}?colour=cluster&q=self")
    found = links(html)
    assert found["Zoom in"] == f"{MAP}?colour=cluster&q=self&zoom=2.0&x=0.5&y=0.5"
    zoomed = page(browsable, found["Zoom in"])
    assert links(zoomed)["Zoom out"] == f"{MAP}?colour=cluster&q=self"
    assert links(zoomed)["Move right"].endswith("zoom=2.0&x=0.75&y=0.5")
    assert 'viewBox="250.00 170.00 500.00 340.00"' in zoomed
    assert 'name="zoom" value="2.0"' in zoomed, "a search keeps the window"
    assert zoomed.count("<circle") < html.count("<circle")


def test_a_word_rings_the_latents_that_a_search_finds(browsable: TestClient) -> None:
    html = page(browsable, f"{MAP}?q=self")
    ringed = set(re.findall(rf'<a href="/{BATCH}/(\d+)" tabindex="-1"><circle class="k\d hit"', html))
    found = {str(one["latent"]) for one in json_of(browsable, f"/search.json?q=self&sae={BATCH}")["latents"]}
    assert ringed
    assert ringed & found
    assert f"{len(ringed)} ringed" in text_of(html)


@pytest.mark.parametrize("colour", ["density", "explained", "cluster", "nonsense"])
def test_every_colour_has_a_legend(browsable: TestClient, colour: str) -> None:
    html = page(browsable, f"{MAP}?colour={colour}&cluster=0")
    legend = html[html.index('aria-label="Colours"'):html.index("<svg class=\"plane\"")]
    counts = [int(n.replace(",", "")) for n in re.findall(r'muted num">([\d,]+)<', legend)]
    assert sum(counts) == len(json_of(browsable, f"{MAP}.json")["points"])


def test_htmx_gets_the_map_alone(browsable: TestClient) -> None:
    part = browsable.get(f"{MAP}?zoom=3", headers={"HX-Request": "true", "HX-Target": "map"}).text
    assert part.lstrip().startswith('<section class="card" id="map">')
    assert "<html" not in part
