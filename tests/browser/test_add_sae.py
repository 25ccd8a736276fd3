"""Adding an SAE by its files: upload, the missing facts, the run, the SAE's page."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import TEXT_TOKENS, Server, picture
from tests.unit.sae.formats import saes

pytestmark = pytest.mark.browser


def test_an_upload_becomes_an_sae(browser: Browser, server: Server, tmp_path: Path) -> None:
    weights = saes.square(tmp_path / "mine", transposed=False) / "tensors.safetensors"
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.set_default_timeout(120_000)  # a form is answered when a process has read the upload
    server.sign_in(page)
    page.goto(f"{server.address}/admin/import")
    picture(page, "add-sae.png")
    page.set_input_files("#f-files", weights)
    page.click("#start")

    # It is read, and asks for what tensors alone cannot say.
    expect(page.get_by_role("alert").first).to_contain_text("Some facts are missing from it", timeout=60_000)
    expect(page.locator("#help-files")).to_contain_text("tensors.safetensors")
    expect(page.locator(".form-aside")).to_contain_text("bare tensors")
    picture(page, "add-sae-asks.png")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    picture(page, "add-sae-narrow.png")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.fill("#f-model", "demo")
    page.fill("#f-hook", "blocks.2.hook_resid_post")
    page.fill("#f-name", "mine")
    page.select_option("#f-bos", "yes")
    page.select_option("#f-architecture", "relu")
    page.select_option("#f-subtract_b_dec", "no")
    page.get_by_role("heading", name="Verification", exact=True).click()
    page.fill("#f-text_tokens", TEXT_TOKENS)
    page.get_by_role("heading", name="Index", exact=True).click()
    page.fill("#f-index_tokens", "4000")
    page.click("#start")

    expect(page.get_by_role("heading", name="Import mine")).to_be_visible()
    page.get_by_role("link", name="Open demo/mine").click(timeout=120_000)
    expect(page.get_by_role("heading", name="Origin")).to_be_visible()
    expect(page.locator("main")).to_contain_text("bare tensors (W_enc and W_dec)")
    picture(page, "added-sae.png")
    page.get_by_role("link", name="Browse latents").click()
    expect(page.locator("table tbody tr").first).to_be_visible()
    page.context.close()
    assert [text for text in problems if "422" not in text] == []  # a form that comes back is logged as an error
