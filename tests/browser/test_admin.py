"""Accounts and SAEs as an administrator and a member meet them in a browser."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server, until
from tests.builds import make_build

pytestmark = pytest.mark.browser


def test_a_member_signs_in_where_it_was_and_out_again(browser: Browser, server: Server, page: Page) -> None:
    server.sign_in(page)
    page.goto(f"{server.address}/admin/users")
    expect(page.get_by_label("Role")).not_to_have_value("administrator")
    page.fill("#f-name", "eve")
    page.fill("#f-password", "correct horse")
    page.get_by_role("button", name="Add user").click()
    expect(page.get_by_role("link", name="eve", exact=True)).to_be_visible()

    context = browser.new_context(viewport={"width": 390, "height": 844})
    member = context.new_page()
    member.goto(f"{server.address}/runs")
    expect(member.get_by_role("link", name="Train an SAE")).to_have_count(0)
    member.goto(f"{server.address}/login?next=/runs")
    member.fill("#name", "eve")
    member.fill("#password", "correct horse")
    member.get_by_role("main").get_by_role("button", name="Sign in").click()
    expect(member).to_have_url(f"{server.address}/runs")
    member.goto(f"{server.address}/account")
    assert member.evaluate("document.documentElement.scrollWidth") <= 390
    member.fill("#f-current", "correct horse")
    member.fill("#f-password", "battery staple")
    member.fill("#f-again", "battery staple")
    member.get_by_role("button", name="Change password").click()
    expect(member.get_by_role("status")).to_contain_text("Your password is changed")
    with member.expect_navigation():
        member.click("#sign-out")
    member.go_back()
    expect(member.get_by_role("heading", name="Sign in")).to_be_visible()  # not the page from the browser's memory
    context.close()

    page.goto(f"{server.address}/admin/users")
    page.get_by_role("link", name="Remove eve").click()
    page.get_by_role("button", name="Remove eve").click()
    expect(page.get_by_role("link", name="eve", exact=True)).to_have_count(0)


def another_sae(home: Path, sae_id: str) -> None:
    """Copy the server's SAE, and make a build for the copy: the pages of administrators need no trained one."""
    (trained,) = home.glob("saes/demo/2-res-batchtopk-512")
    folder, build = home / "saes" / sae_id, home / "builds" / sae_id / "build-1.duckdb"
    shutil.copytree(trained, folder)
    config = json.loads((folder / "sae.json").read_text())
    (folder / "sae.json").write_text(json.dumps(config | {"id": sae_id}))
    build.parent.mkdir(parents=True)
    make_build(build, sae_id=sae_id, n_latents=config["n_latents"], n_contexts=8)


def test_an_sae_is_hidden_renamed_and_deleted(server: Server, page: Page) -> None:
    before = sorted(server.home.glob("*/demo/*"))
    another_sae(server.home, "demo/throwaway")
    server.sign_in(page)
    place = f"{server.address}/admin/saes/demo/throwaway"
    until(lambda: page.request.get(place).ok)  # the server looks for new SAEs every few seconds
    page.goto(place)
    page.fill("#f-note", "for a test")
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("Saved")
    page.goto(f"{server.address}/")
    expect(page.locator("main")).not_to_contain_text("throwaway")
    page.goto(f"{server.address}/admin/saes/demo/throwaway")
    page.fill("#f-to", "other-name")
    page.get_by_role("button", name="Rename").click()
    expect(page.get_by_role("heading", name="demo/other-name")).to_be_visible()
    page.goto(f"{server.address}/demo/other-name/latents")
    expect(page.locator("table tbody tr").first).to_be_visible()
    page.goto(f"{server.address}/admin")
    page.get_by_role("link", name="Delete demo/other-name").click()
    expect(page.get_by_role("main")).to_contain_text(re.compile(r"builds\s*1"))
    page.get_by_role("button", name="Delete other-name").click()
    expect(page.get_by_role("main")).not_to_contain_text("other-name")
    assert sorted(server.home.glob("*/demo/*")) == before
