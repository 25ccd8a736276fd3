"""The map and the histogram in a real browser: what the pointer does, and that nothing else happens."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Server
from tests.browser.test_latents import SAE

pytestmark = pytest.mark.browser


def test_the_map_zooms_at_the_pointer_and_is_dragged(page: Page, server: Server) -> None:
    page.goto(f"{server.address}{SAE}/map")
    expect(page.locator("#map-hint")).to_be_visible()
    plane = page.locator("svg.plane")
    expect(plane).to_have_attribute("viewBox", "0.00 0.00 1000.00 680.00")
    box = plane.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    expect(page).to_have_url(re.compile(r"zoom=4\.48"))
    expect(plane).to_have_attribute("viewBox", re.compile(r"^388\.\d+ 26[34]\.\d+ 223\.\d+ "))
    page.mouse.down()
    page.mouse.move(x + 120, y, steps=3)
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"x=0\.4[0-8]"))
    expect(page).to_have_url(re.compile(rf"{SAE}/map\?"))  # the drag ended on a point, which is no click
    page.get_by_role("link", name="Zoom out").click()
    expect(page).to_have_url(re.compile(r"zoom=2\.24"))


def test_a_bar_is_clicked_or_dragged_over(page: Page, server: Server) -> None:
    page.goto(f"{server.address}{SAE}/latents?sort=density&dir=desc")
    page.locator("table.latents tbody tr[data-row] a").first.click()
    chart = page.locator("#acts svg.c-plot")
    bar = page.locator("#acts svg.c-plot a rect").nth(3).bounding_box()
    assert bar is not None
    page.mouse.click(bar["x"] + bar["width"] / 2, bar["y"] + bar["height"] - 2)
    expect(page).to_have_url(re.compile(r"bin=\d+#contexts$"))
    expect(page.locator("#contexts")).to_contain_text("with the strongest firing in this bin")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 60, box["y"] + box["height"] - 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 180, box["y"] + box["height"] - 5, steps=3)
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"bin=\d+&acts=[\d.]+&acts="))
