"""Tests of SAEs by a former name: in the query of every page and of the API, and in forms."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from app.access import accounts
from app.db.tables import User
from app.pages.former_names import with_present_names
from tests.unit.app.conftest import BATCH, TOP

NOW = "demo/best"


class Names:
    """A catalog in which `demo/old` has another name now."""

    def present_id(self, sae_id: str) -> str:
        return NOW if sae_id == "demo/old" else sae_id


@pytest.mark.parametrize(("query", "present"), [
    ("sae=demo/old", "sae=demo%2Fbest"), ("q=a+b&sae=demo%2Fold&x=", "q=a+b&sae=demo%2Fbest&x="),
    ("a=demo%2Fold&b=demo%2Fnew", "a=demo%2Fbest&b=demo%2Fnew"), ("sae=demo%2Fnew&q=%ff/", "sae=demo%2Fnew&q=%ff/"),
    ("text=demo/old", "text=demo/old"), ("sae=demo/old&q=%ff", "sae=demo%2Fbest&q=%FF")])
def test_only_names_of_saes_are_replaced(query: str, present: str) -> None:
    assert with_present_names(query.encode(), Names()).decode() == present  # type: ignore[arg-type]


@pytest.fixture
def renamed(browsable: TestClient) -> TestClient:
    state = browsable.app.state  # type: ignore[attr-defined]
    with state.sessions() as db:
        user = User(name="ada", is_admin=True)
        db.add(user)
        db.commit()
        browsable.cookies.set(accounts.COOKIE, accounts.open_session(db, user, state.settings))
    assert browsable.post(f"/admin/saes/{BATCH}/rename", data={"to": "best"}).status_code == 303
    return browsable


ADDRESSES = [
    f"/search?q=3&sae={BATCH}", f"/search.json?q=a&sae={BATCH}", f"/steer?sae={BATCH}&latent=3",
    f"/inspect?sae={BATCH}", f"/compare?a={BATCH}&b={TOP}", f"/compare?a={TOP}&b={BATCH}",
    f"/{TOP}/tokens?with={BATCH}", f"/lists/add?sae={BATCH}&latent=3", f"/inspect/card?sae={BATCH}&latent=3",
    f"/admin/index?sae={BATCH}", f"/api/search?q=a&sae={BATCH}", f"/search/text?sae={BATCH}"]


def test_addresses_with_a_former_name_give_the_page_of_the_present_one(renamed: TestClient) -> None:
    for address in ADDRESSES:
        answer, fresh = renamed.get(address), renamed.get(address.replace(BATCH, NOW))
        assert answer.status_code in (200, 303), address
        assert (answer.status_code, answer.headers.get("location")) == (
            fresh.status_code, fresh.headers.get("location")), address
        assert BATCH not in answer.text, address
        assert answer.text.partition("</title>")[0] == fresh.text.partition("</title>")[0], address


def test_forms_that_were_opened_before_the_renaming_work(renamed: TestClient) -> None:
    steered = {"sae": BATCH, "latent": "3", "mode": "add", "strength": "1", "prompt": "def"}
    shown = renamed.post("/steer/form", data=steered).text
    assert f"/{NOW}/3" in shown
    assert "there is no SAE" not in shown
    made = renamed.post("/lists", data={"name": "one", "sae": BATCH, "latent": "3"}).headers["location"]
    assert f'href="/{NOW}/3"' in renamed.get(made).text
    renamed.post(f"{made}/latents/remove", data={"sae": BATCH, "latent": "3"})
    assert f'href="/{NOW}/3"' not in renamed.get(made).text
    compared = renamed.post("/compare", data={"a": BATCH, "b": TOP})
    assert compared.status_code == 303, compared.text
    run = renamed.post("/api/runs", json={"kind": "index", "spec": {"sae": BATCH}}).json()
    assert renamed.get(f"/api/runs/{run['id']}").json()["sae"] == NOW
