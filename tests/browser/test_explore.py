"""Browsing in a real browser: the place of a context in its document, rows that open it, charts at all widths."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server

pytestmark = pytest.mark.browser

SAE = "demo/2-res-batchtopk-512"
_IN_WINDOW = "e => { const at = e.getBoundingClientRect(); return at.top >= 0 && at.bottom <= innerHeight; }"
_TEXT_HEIGHTS = """() => [...document.querySelectorAll(".chart text")].filter((e) => e.checkVisibility())
  .map((e) => e.getBoundingClientRect().height)"""
_OVERLAPS = """() => [...document.querySelectorAll(".c-plot")].flatMap((plot) => {
  const boxes = [...plot.querySelectorAll("text:not(.c-name)")].filter((e) => e.checkVisibility())
    .map((e) => [e.textContent, e.getBoundingClientRect()]);
  return boxes.flatMap(([a, one], i) => boxes.slice(i + 1).filter(([, two]) =>
    one.left < two.right - 1 && two.left < one.right - 1 && one.top < two.bottom - 4 && two.top < one.bottom - 4)
    .map(([b]) => `${a} | ${b}`));
})"""


@pytest.fixture(scope="module")
def latent(server: Server) -> int:
    """A latent that fires often but not always."""
    rows = httpx.get(f"{server.address}/{SAE}/latents.json?sort=density&dir=desc&limit=400").json()["latents"]
    return next(int(row["latent"]) for row in rows if row["density"] < 0.02)


@pytest.mark.parametrize("scripts", [True, False])
def test_the_source_of_a_context_opens_at_its_peak(
    browser: Browser, server: Server, latent: int, scripts: bool
) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 600}, java_script_enabled=scripts)
    page = context.new_page()
    for row in range(5):
        page.goto(f"{server.address}/{SAE}/{latent}")
        item = page.locator("#contexts .ctx").nth(row)
        value = item.locator(".num").inner_text()
        item.locator(".source a").click()
        expect(page).to_have_url(re.compile(r"/source/\d+#at$"))
        peak = page.locator("#at")
        expect(peak).to_have_class(re.compile("peak"))
        assert page.locator("main").get_by_text(value, exact=True).first.is_visible()
        if scripts:
            assert peak.evaluate(_IN_WINDOW)
    context.close()


def test_the_row_of_a_context_opens_its_document(page: Page, server: Server, latent: int) -> None:
    page.goto(f"{server.address}/{SAE}/{latent}")
    page.locator("#contexts .ctx .text").first.click()
    expect(page).to_have_url(re.compile(r"/source/\d+#at$"))
    page.go_back()
    page.locator("#contexts .ctx").nth(1).press("Enter")
    expect(page).to_have_url(re.compile(r"/source/\d+#at$"))


def test_the_text_of_charts_has_one_size_and_does_not_overlap(browser: Browser, server: Server, latent: int) -> None:
    for width in (390, 1280, 1920):
        context = browser.new_context(viewport={"width": width, "height": 900})
        page = context.new_page()
        for path in (f"/{SAE}", f"/{SAE}/tokens", f"/{SAE}/{latent}", f"/{SAE}/{latent}?embed=1"):
            page.goto(server.address + path)
            heights = page.evaluate(_TEXT_HEIGHTS)
            assert heights
            assert 10 <= min(heights) <= max(heights) <= 20, (path, width)
            assert page.evaluate(_OVERLAPS) == [], (path, width)
        context.close()


def test_a_drag_over_a_chart_zooms_and_is_in_the_address(page: Page, server: Server) -> None:
    page.goto(f"{server.address}/{SAE}/tokens")
    plot = page.locator("#l0 .c-plot")
    box = plot.bounding_box()
    assert box is not None
    plot_high = plot.get_attribute("data-high")
    high = float(plot_high or 0)
    plot.hover(position={"x": box["width"] / 50, "y": 20})  # `hover` waits until the layout is still
    page.mouse.down()
    plot.hover(position={"x": box["width"] / 4, "y": 40}, force=True)
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"l0=[\d.]+&l0=[\d.]+"))
    expect(page.locator("#l0 .c-plot")).not_to_have_attribute("data-high", str(plot_high))
    assert float(page.locator("#l0 .c-plot").get_attribute("data-high") or 0) < 0.6 * high
    zoomed = page.locator("#l0 .c-plot").get_attribute("data-high")
    page.reload()
    assert page.locator("#l0 .c-plot").get_attribute("data-high") == zoomed


def test_an_embed_asks_for_nothing_that_is_not_there(page: Page, server: Server, latent: int) -> None:
    missing: list[str] = []
    page.on("response", lambda response: missing.append(response.url) if response.status >= 400 else None)
    page.goto(f"{server.address}/{SAE}/{latent}?embed=1")
    page.wait_for_load_state("networkidle")
    assert missing == []
