"""Tests of the map of decoder directions: places, sizes, names, and cells where there are many latents."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from app.render import plane

SAE = "demo/x"


def draw(points: list[tuple[int, float, float, float]], names: dict[int, str] | None = None) -> ElementTree.Element:
    build: Any = SimpleNamespace(map_points=lambda: points)
    return ElementTree.fromstring(plane.plane(build, SAE, names or {}, names or {}))


def circles(tree: ElementTree.Element) -> dict[int, ElementTree.Element]:
    found = {}
    for link in tree.iter("a"):
        circle = link.find("circle")
        assert circle is not None
        found[int(link.get("href", "").rpartition("/")[2])] = circle
    return found


def place(circle: ElementTree.Element) -> tuple[float, float]:
    return float(circle.get("cx", "")), float(circle.get("cy", ""))


def test_a_build_without_places_has_no_map() -> None:
    build: Any = SimpleNamespace(map_points=list)
    assert plane.plane(build, SAE, {}) == ""


def test_points_fill_the_picture_and_y_goes_up() -> None:
    found = circles(draw([(0, -1.0, 5.0, 0.1), (1, 3.0, 7.0, 0.1), (2, 1.0, 6.0, 0.1)]))
    assert place(found[0]) == (10, 670)
    assert place(found[1]) == (990, 10)
    assert place(found[2]) == (500, 340)


def test_one_point_or_one_line_of_points_is_no_division_by_zero() -> None:
    assert place(circles(draw([(7, 2.0, 3.0, 0.1)]))[7]) == (10, 670)
    assert {place(c)[1] for c in circles(draw([(0, 0.0, 1.0, 0.1), (1, 1.0, 1.0, 0.1)])).values()} == {670}


def test_denser_latents_are_larger_and_lie_below() -> None:
    tree = draw([(0, 0.0, 0.0, 1e-5), (1, 1.0, 0.0, 2e-3), (2, 0.0, 1.0, 0.5)])
    sizes = {latent: int(circle.get("r", "")) for latent, circle in circles(tree).items()}
    assert sizes == {2: 5, 1: 4, 0: 2}
    assert list(sizes) == [2, 1, 0], "drawn first, so that small points stay visible"


def test_labels_are_in_the_hover_and_harmless() -> None:
    tree = draw([(0, 0.0, 0.0, 0.01), (1, 1.0, 1.0, 0.01)], {1: "<b> & co"})
    found = circles(tree)
    assert (found[0].get("class"), found[1].get("class")) == (None, "named")
    assert [found[i].findtext("title") for i in (0, 1)] == [
        "0 · 1.0% · 1 in 100 tokens", "1 · <b> & co · 1.0% · 1 in 100 tokens"]


def test_many_latents_become_cells_that_lead_to_the_one_that_fires_most(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [(i, 0.0, 0.0, 0.001 * (i + 1)) for i in range(9)] + [(9, 1.0, 1.0, 0.5)]
    assert len(circles(draw(points))) == 10
    monkeypatch.setattr(plane, "POINTS", 9)
    tree = draw(points)
    links = {link.get("href"): link.find("rect") for link in tree.iter("a")}
    assert set(links) == {f"/{SAE}/8", f"/{SAE}/9"}
    full, single = links[f"/{SAE}/8"], links[f"/{SAE}/9"]
    assert full is not None
    assert single is not None
    assert (full.get("class"), single.get("class")) == ("cell s7", "cell s2")
    assert re.match("9 latents here; 8 fires most", full.findtext("title") or "")
    assert tree.get("aria-label") == "Map of 10 decoder directions"
