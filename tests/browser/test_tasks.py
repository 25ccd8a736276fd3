"""The tasks of a reader in one visit: what is this, find a latent, check it, its source, own text, steer, compare."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Server

pytestmark = pytest.mark.browser

SAE = "demo/2-res-batchtopk-512"
MODEL_MS = 120_000


def test_each_task_of_a_reader_is_a_few_clicks(page: Page, server: Server) -> None:
    page.goto(server.address)
    expect(page.locator("main p").first).to_contain_text("Browse what the latents")
    expect(page.locator(".door strong")).to_have_text([
        "See a clear latent", "Steer the model", "Inspect your own text"])

    page.goto(f"{server.address}/{SAE}")
    page.keyboard.press("/")
    page.keyboard.type("return")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Search: return")).to_be_visible()
    expect(page.locator("tr[data-row]").first).to_contain_text("return")
    page.locator("tr[data-row] a").first.click()
    latent = page.url.rpartition("/")[2].partition("?")[0]
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Latent {latent}")
    assert page.locator("h2.band").count() >= 2, "its bands, from the strongest to the weakest"

    page.locator("#contexts .source a").first.click()
    expect(page.locator("#at")).to_be_in_viewport()
    page.go_back()
    page.keyboard.press("t")
    page.get_by_label("Your own text").fill("def f(x):\n    return x\n")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#own-text")).to_contain_text("tokens", timeout=MODEL_MS)

    page.keyboard.press("Escape")
    page.get_by_role("link", name="Steer", exact=True).last.click()
    page.get_by_text("Sampling and positions").click()
    page.locator("[name=length]").fill("12")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".steer-status")).to_contain_text("done", timeout=MODEL_MS)
    expect(page.locator("#steered")).not_to_be_empty()
    page.locator("summary", has_text="one latent at many strengths").click()
    page.locator("[name=sweep]").fill("0.25 0.5")
    page.get_by_role("button", name="Sweep", exact=True).click()
    expect(page.locator(".verdict")).to_be_visible(timeout=MODEL_MS)
    assert page.locator(".sweep-row").count() == 3, "unsteered and both strengths"

    page.get_by_role("link", name="Inspect", exact=True).click()
    page.locator("[name=text]").fill("import os\n")
    page.get_by_role("button", name="Inspect", exact=True).click()
    expect(page.get_by_role("heading", name=re.compile("Latents of the text"))).to_be_visible(timeout=MODEL_MS)
    page.get_by_role("link", name="Compare", exact=True).click()
    expect(page.get_by_role("heading", name="Compare", level=1)).to_be_visible()
