"""Two people at once in real browsers: no label is lost, and a star stays in its browser."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from tests.browser.conftest import Server

SAE = "demo/2-res-batchtopk-512"


def test_two_people_who_edit_one_latent_lose_nothing(browser: Browser, server: Server) -> None:
    place = f"{server.address}/{SAE}/7"
    people = [browser.new_context() for _ in range(2)]
    ada, eve = (context.new_page() for context in people)
    for page in (ada, eve):
        server.sign_in(page)
        page.goto(place)
    ada.get_by_label("Label", exact=True).fill("the first thought")
    ada.get_by_role("button", name="Save").first.click()
    expect(ada.locator("#label [role=status]")).to_have_text("saved")
    eve.get_by_label("Label", exact=True).fill("another thought")
    eve.get_by_role("button", name="Save").first.click()
    expect(eve.locator("#label [role=alert]")).to_contain_text("the first thought")
    expect(eve.get_by_label("Label", exact=True)).to_have_value("another thought")
    eve.get_by_role("button", name="Save").first.click()
    expect(eve.locator("#label [role=status]")).to_have_text("saved")
    eve.reload()
    expect(eve.get_by_label("Label", exact=True)).to_have_value("another thought")
    eve.locator("details.earlier summary").click()
    expect(eve.locator("details.earlier")).to_contain_text("the first thought")
    for context in people:
        context.close()


def test_a_visitors_star_is_there_after_a_reload_and_in_no_other_browser(browser: Browser, server: Server) -> None:
    place = f"{server.address}/{SAE}/7"
    mine, other = browser.new_context(), browser.new_context()
    page = mine.new_page()
    page.goto(place)
    page.keyboard.press("f")
    expect(page.locator("#star button")).to_have_text("★ starred")
    page.reload()
    expect(page.locator("#star button")).to_have_text("★ starred")
    theirs = other.new_page()
    theirs.goto(place)
    expect(theirs.locator("#star button")).to_have_text("☆ star")
    for context in (mine, other):
        context.close()
