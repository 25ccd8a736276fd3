"""Tests of stars and comments on a latent's page."""

from __future__ import annotations

import re

from fastapi.testclient import TestClient

from app.pages import stars as browser_stars
from tests.unit.app.conftest import BATCH, TOP
from tests.unit.app.pages.system.browsers import add_user, sign_in

HTMX = {"HX-Request": "true"}


def total(client: TestClient, sae_id: str = BATCH) -> int:
    return int(client.get(f"/{sae_id}/latents.json?starred=1").json()["total"])


def test_a_visitors_stars_stay_in_the_browser(browsable: TestClient) -> None:
    answer = browsable.post(f"/{BATCH}/4/star", data={"on": "1"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/{BATCH}/4")
    assert f"Path=/{BATCH}" in answer.headers["set-cookie"]
    assert "HttpOnly" in answer.headers["set-cookie"]
    browsable.post(f"/{BATCH}/9/star", data={"on": "1"})
    assert (total(browsable), total(browsable, TOP)) == (2, 0)
    assert "★ starred" in browsable.get(f"/{BATCH}/4").text
    assert "☆ star" in browsable.get(f"/{TOP}/4").text
    other = TestClient(browsable.app, follow_redirects=False)
    assert total(other) == 0
    part = browsable.post(f"/{BATCH}/4/star", data={"on": "0"}, headers=HTMX)
    assert "☆ star" in part.text
    assert total(browsable) == 1


def test_a_cookie_that_somebody_wrote_is_read_as_numbers_alone(browsable: TestClient) -> None:
    browsable.cookies.set(browser_stars.COOKIE, f"4.4.x.-1.{10**30}..9")
    assert total(browsable) == 2
    many = [str(number) for number in range(1000)]
    browsable.cookies.set(browser_stars.COOKIE, ".".join(many))
    assert total(browsable) <= browser_stars.KEPT


def test_users_have_stars_of_their_own(browsable: TestClient) -> None:
    for name in ("ada", "eve"):
        add_user(browsable, name, "reader")
    ada, eve = (sign_in(browsable, name) for name in ("ada", "eve"))
    ada.post(f"/{BATCH}/4/star", data={"on": "1"})
    assert (total(ada), total(eve), total(browsable)) == (1, 0, 0)
    assert total(sign_in(browsable, "ada")) == 1  # in any browser


def test_comments_are_read_by_all_and_deleted_by_their_author(browsable: TestClient, admin: TestClient) -> None:
    for name, role in (("eve", "editor"), ("rae", "reader")):
        add_user(browsable, name, role)
    eve, rae = sign_in(browsable, "eve"), sign_in(browsable, "rae")
    place = f"/{BATCH}/4/comments"
    assert eve.post(place, data={"text": "silent in <b>classes</b>\nsee 9"}).status_code == 303
    assert rae.post(place, data={"text": "x"}).status_code == 403
    assert TestClient(browsable.app, follow_redirects=False).post(place, data={"text": "x"}).status_code == 401
    page = rae.get(f"/{BATCH}/4").text
    assert "silent in &lt;b&gt;classes&lt;/b&gt;\nsee 9" in page
    assert "/delete" not in page
    (number,) = re.findall(r'id="comment-(\d+)"', page)
    assert rae.post(f"{place}/{number}/delete").status_code == 403
    assert eve.post(f"/{BATCH}/5/comments/{number}/delete").status_code == 404
    refused = eve.post(place, data={"text": " "}, headers=HTMX)
    assert (refused.status_code, "write the comment first" in refused.text) == (422, True)
    assert eve.post(place, data={"text": "x" * 5001}).status_code == 422
    assert admin.post(f"{place}/{number}/delete").status_code == 303
    assert "No comment" not in eve.get(f"/{BATCH}/4").text
    assert "classes" not in eve.get(f"/{BATCH}/4").text
