"""Tests of the map: places, sizes, colours, windows, names, and cells where there are many latents."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from starlette.datastructures import QueryParams

from app.render import plane
from app.render.plane import Colours, View
from sae.store.map_points import MapPoints

SAE = "demo/x"
Row = tuple[int, float, float, float]


def draw(
    rows: list[Row], names: dict[int, str] | None = None, view: View = View(), hits: tuple[int, ...] = (),  # noqa: B008
    labels: tuple[tuple[int, str], ...] = (), index: list[int] | None = None,
) -> ElementTree.Element:
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    colours = Colours(np.array(index or [0] * len(rows)), ["a", "b"], labels)
    drawn = plane.plane(MapPoints(*columns), view, colours, SAE, lambda latents: names or {}, hits)
    return ElementTree.fromstring(drawn)


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
    none = np.zeros(0)
    assert plane.plane(MapPoints(none, none, none, none), View(), Colours(none, ["a"]), SAE, lambda latents: {}) == ""


def test_points_fill_the_picture_and_y_goes_up() -> None:
    found = circles(draw([(0, -1.0, 5.0, 0.1), (1, 3.0, 7.0, 0.1), (2, 1.0, 6.0, 0.1)]))
    assert place(found[0]) == (10, 670)
    assert place(found[1]) == (990, 10)
    assert place(found[2]) == (500, 340)


def test_one_point_or_one_line_of_points_is_no_division_by_zero() -> None:
    assert place(circles(draw([(7, 2.0, 3.0, 0.1)]))[7]) == (10, 670)
    assert {place(c)[1] for c in circles(draw([(0, 0.0, 1.0, 0.1), (1, 1.0, 1.0, 0.1)])).values()} == {670}


def test_denser_latents_are_larger_and_lie_below() -> None:
    tree = draw([(0, 0.0, 0.0, 1e-5), (1, 1.0, 0.0, 2e-3), (2, 0.0, 1.0, 0.5)], index=[1, 0, 0])
    sizes = {latent: int(circle.get("r", "")) for latent, circle in circles(tree).items()}
    assert sizes == {2: 5, 1: 4, 0: 2}
    assert list(sizes) == [2, 1, 0], "drawn first, so that small points stay visible"
    assert [circle.get("class") for circle in circles(tree).values()] == ["a", "a", "b"]


def test_names_are_in_the_hover_and_harmless() -> None:
    found = circles(draw([(0, 0.0, 0.0, 0.01), (1, 1.0, 1.0, 0.01)], {1: "<b> & co"}))
    assert [found[i].findtext("title") for i in (0, 1)] == [
        "0 · 1.0% · 1 in 100 tokens", "1 · <b> & co · 1.0% · 1 in 100 tokens"]


def test_many_latents_become_cells_that_lead_to_the_one_that_fires_most(monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[Row] = [(i, 0.0, 0.0, 0.001 * (i + 1)) for i in range(9)] + [(9, 1.0, 1.0, 0.5)]
    assert len(circles(draw(points))) == 10
    monkeypatch.setattr(plane, "POINTS", 9)
    tree = draw(points, index=[1] * 5 + [0] * 5)
    links = {link.get("href"): link.find("rect") for link in tree.iter("a")}
    assert set(links) == {f"/{SAE}/8", f"/{SAE}/9"}
    full, single = links[f"/{SAE}/8"], links[f"/{SAE}/9"]
    assert full is not None
    assert single is not None
    assert (full.get("class"), single.get("class")) == ("cell s7 b", "cell s2 a")
    assert re.match("9 latents here; 8 fires most", full.findtext("title") or "")
    assert tree.get("aria-label") == "Map of 10 decoder directions"
    ringed = draw(points, hits=(3,)).findall(".//circle[@class='a hit']")
    assert len(ringed) == 1, "a latent that was found is a point among the cells"


def test_a_window_has_its_own_points_at_the_same_size_on_the_screen() -> None:
    points: list[Row] = [(0, 0.0, 0.0, 0.5), (1, 1.0, 1.0, 0.5), (2, 0.5, 0.5, 0.5)]
    view = View(4.0, 0.0, 1.0).inside()
    assert view == View(4.0, 0.125, 0.875)
    tree = draw(points, view=view)
    found = circles(tree)
    assert list(found) == [0]
    assert found[0].get("r") == "1.25"
    assert [float(n) for n in tree.get("viewBox", "").split()] == [0, 510, 250, 170]


def test_windows_stay_inside_the_map() -> None:
    assert View().zoomed(0.5) == View()
    assert View(4.0).zoomed(100) == View(plane.MAX_ZOOM)
    assert View().moved(0.5, 0.5) == View(), "the whole map cannot be moved"
    assert View(2.0).moved(0.5, 0) == View(2.0, 0.75, 0.5)
    assert View.read(QueryParams("zoom=2&x=0.3&y=nan")) == View(2.0, 0.3, 0.5)
    assert View.read(QueryParams("zoom=x&x=inf")) == View.read(QueryParams("zoom=-3")) == View()


def test_labels_do_not_cover_each_other() -> None:
    points: list[Row] = [(0, 0.0, 0.0, 0.5), (1, 0.5, 0.5, 0.5), (2, 0.51, 0.5, 0.5), (3, 1.0, 1.0, 0.5)]
    tree = draw(points, labels=((1, "<one>"), (2, "two"), (3, "three")))
    texts = {text.text: float(text.get("x", "")) for text in tree.iter("text")}
    assert list(texts) == ["<one>", "three"]
    assert texts["three"] < 990, "a label at the edge is moved inside"
