"""The whole way of a new user: home, latents, a latent, steering, admin, a run of one's own."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import TEXT_TOKENS, Server, picture

pytestmark = pytest.mark.browser

SAE = "/demo/2-res-batchtopk-512"
RUN_MS = 200_000


def test_from_home_to_a_steered_text_and_a_run_of_ones_own(page: Page, server: Server) -> None:
    walk(page, server, "my-own")


def walk(page: Page, server: Server, name: str) -> None:
    """Go the whole way; the SAE of one's own gets this name."""
    page.goto(server.address)
    page.get_by_role("link", name=re.compile("2-res-batchtopk-512")).first.click()
    expect(page).to_have_url(server.address + SAE)
    page.get_by_role("link", name="Browse latents").click()
    expect(page.locator("table tbody tr").first).to_be_visible()

    # A latent that is not dead and does not fire on everything: the tenth by density.
    page.get_by_role("link", name=re.compile("density", re.I)).first.click()
    page.locator("table tbody tr").nth(9).locator("a").first.click()
    heading = page.get_by_role("heading", level=1)
    first = heading.inner_text()
    expect(page.get_by_role("heading", name="Top contexts")).to_be_visible()
    page.keyboard.press("ArrowRight")  # the next in the table's order
    expect(heading).not_to_have_text(first)
    page.wait_for_load_state()  # before its scripts have run, a page answers no key
    page.keyboard.press("ArrowLeft")
    expect(heading).to_have_text(first)

    page.get_by_role("link", name="Steer", exact=True).last.click()
    strength = page.locator("input[name=strength][type=number]")
    strength.fill("8")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text(re.compile(r"^done|finished", re.I)).first).to_be_visible(timeout=120_000)
    baseline, steered = page.locator("#baseline").inner_text(), page.locator("#steered").inner_text()
    assert baseline
    assert steered
    assert baseline != steered
    picture(page, "steer.png", full=False)

    server.sign_in(page)
    page.goto(server.address + "/admin/train")
    page.get_by_role("link", name="Quick trial").or_(page.get_by_role("button", name="Quick trial")).click()
    for field_name, value in {"n_latents": "256", "tokens": "20000", "eval_tokens": "2000", "index_tokens": "10000",
                              "name": name, "batch_tokens": "1024", "buffer_tokens": "10240",
                              "text_tokens": TEXT_TOKENS}.items():
        field = page.locator(f"[name={field_name}]")
        if not field.is_visible():
            field.locator("xpath=ancestor::details/summary").click()
        field.fill(value)
    page.get_by_role("button", name="Start the run").click()
    expect(page).to_have_url(re.compile(r"/runs/train-"))
    expect(page.get_by_text("succeeded").first).to_be_visible(timeout=RUN_MS)
    picture(page, "run.png", full=False)
    page.goto(f"{server.address}/demo/{name}")
    expect(page.get_by_role("link", name="Browse latents")).to_be_visible()
