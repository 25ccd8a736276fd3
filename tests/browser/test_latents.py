"""The table of latents and the page of a latent in a real browser: labels, places, widths, keys."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server

pytestmark = pytest.mark.browser

SAE = "/demo/2-res-batchtopk-512"
_WIDTHS = "[...document.querySelectorAll('table.latents th')].map((th) => Math.round(th.getBoundingClientRect().width))"

# The width that the search box has for its placeholder, and the placeholder's own.
_PLACEHOLDER = """(box) => {
  const style = getComputedStyle(box), canvas = document.createElement("canvas").getContext("2d");
  canvas.font = style.font;
  const padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
  return [box.clientWidth - padding, canvas.measureText(box.placeholder).width];
}"""


@pytest.fixture(scope="module")
def latent(server: Server) -> int:
    """A latent that fires, but rarely."""
    rows = httpx.get(f"{server.address}{SAE}/latents.json?sort=density&dir=desc&limit=400").json()["latents"]
    return next(int(row["latent"]) for row in rows if row["density"] < 0.01)


def test_a_label_can_be_written_and_cleared(page: Page, server: Server, latent: int) -> None:
    server.sign_in(page)
    page.goto(f"{server.address}{SAE}/{latent}")
    form = page.locator("#label form.grow")
    parts = [form.get_by_label(name, exact=True) for name in ("Label", "Note", "Tags")]
    rows = {round(box["y"]) for part in parts if (box := part.bounding_box())}
    assert len(rows) == 1, "all that is written about a latent is in one row"
    form.get_by_label("Label").fill("a first thought")
    form.get_by_label("Tags").fill("code")
    form.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_have_text("saved")
    page.reload()
    expect(form.get_by_label("Label")).to_have_value("a first thought")
    form.get_by_label("Label").fill("")
    form.get_by_role("button", name="Save").click()
    expect(page.get_by_text("1 earlier label")).to_be_visible()
    page.reload()
    expect(form.get_by_label("Label")).to_have_value("")
    expect(form.get_by_label("Tags")).to_have_value("code")
    page.get_by_text("1 earlier label").click()
    expect(page.locator(".earlier li")).to_contain_text("a first thought")


def test_the_later_of_two_windows_sees_both_labels(page: Page, browser: Browser, server: Server, latent: int) -> None:
    server.sign_in(page)
    address = f"{server.address}{SAE}/{latent + 1}"
    context = browser.new_context()
    context.add_cookies(server.cookies)
    other = context.new_page()  # the browser writes a refused form to the console, so it is not the fixture's page
    for window in (page, other):
        window.goto(address)
    page.locator("#label").get_by_label("Note").fill("mine")
    page.locator("#label").get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_have_text("saved")
    other.locator("#label").get_by_label("Note").fill("theirs")
    other.locator("#label").get_by_role("button", name="Save").click()
    expect(other.get_by_role("alert")).to_contain_text("mine")
    expect(other.locator("#label").get_by_label("Note")).to_have_value("theirs")
    other.locator("#label").get_by_label("Note").fill("mine and theirs")
    other.locator("#label").get_by_role("button", name="Save").click()
    expect(other.get_by_role("status")).to_have_text("saved")
    context.close()


def test_back_leads_to_the_rows_and_the_place_that_one_left(page: Page, server: Server) -> None:
    page.goto(f"{server.address}{SAE}/latents?sort=density&dir=desc")
    rows = page.locator("table.latents tr[data-row]")
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="More", exact=True).click()
    expect(rows).to_have_count(100)
    expect(page).to_have_url(re.compile("shown=100"))
    row = rows.nth(80)
    number = row.locator("a").first.inner_text()
    row.scroll_into_view_if_needed()
    place = page.evaluate("scrollY")
    row.locator("a").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Latent {number}")
    page.go_back()
    expect(rows).to_have_count(100)
    page.wait_for_function(f"Math.abs(scrollY - {place}) < 60")
    expect(page.get_by_role("link", name=number, exact=True)).to_be_in_viewport()


def test_the_table_fits_its_window_with_the_same_columns_for_every_list(page: Page, server: Server) -> None:
    widths = []
    for query in ("", "?sort=kurtosis&dir=desc", "?flag=dead", "?flag=single_token"):
        page.goto(f"{server.address}{SAE}/latents{query}")
        if not page.locator("table.latents").count():
            continue
        widths.append(page.evaluate(_WIDTHS))
        scroll, visible = page.evaluate(
            "(() => { const box = document.querySelector('.scroll'); return [box.scrollWidth, box.clientWidth]; })()")
        assert scroll <= visible, query
    assert len(widths) >= 2
    assert widths.count(widths[0]) == len(widths)
    assert widths[0][1] > 450, "contexts get what is free"


def test_ctrl_enter_tests_a_text_and_a_link_skips_the_contexts(page: Page, server: Server, latent: int) -> None:
    page.goto(f"{server.address}{SAE}/{latent}")
    page.keyboard.press("t")
    page.locator("#try textarea").fill("def read(path):\n    return open(path).read()")
    page.locator("#try textarea").press("Control+Enter")
    expect(page.locator("#own-text")).to_contain_text(re.compile(r"max|silent|not active", re.I), timeout=120_000)
    page.locator(".skip-here").focus()
    expect(page.locator(".skip-here")).to_be_in_viewport()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "facts"


def test_a_search_leads_to_a_latent_in_one_step(page: Page, server: Server) -> None:
    page.goto(f"{server.address}{SAE}/latents")
    room, needed = page.locator("header [name=q]").evaluate(_PLACEHOLDER)
    assert needed <= room
    page.keyboard.press("/")
    page.keyboard.type("self")
    page.keyboard.press("Enter")
    first = page.locator("table.found tr[data-row]").first
    expect(first).to_contain_text("self")
    first.locator(".kwic").click()
    expect(page).to_have_url(re.compile(rf"{SAE}/\d+$"))
