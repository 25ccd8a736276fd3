"""Explanations on the pages of latents, the table, the SAE and the search, and what people do with them."""

from __future__ import annotations

import html
import re

import pytest
from fastapi.testclient import TestClient

from app.access import accounts
from sae.explain import results
from sae.explain.records import Explanation, Score
from sae.workspace.paths import Workspace
from tests.builds import Synthetic
from tests.unit.app.conftest import BATCH
from tests.unit.app.library.test_latent_names import give_rules

TEXT = "the keyword <raise> in Python"
MODEL = Explanation(3, TEXT, "model", method="saescope", model="gpt-x", prompt_version="explain-1", run="r")
WEAK = Explanation(5, "weak one", "model", model="gpt-x", run="r")


@pytest.fixture
def explained(browsable: TestClient, workspace: Workspace) -> TestClient:
    wrong = [{"text": "x ⟦raise⟧", "sort": "near", "answer": True, "document": "d"}]
    details = {"sorts": {"near": {"n": 5, "balanced_accuracy": 0.75}}, "unparsable": 2, "wrong": wrong}
    results.append(workspace.sae(BATCH), [
        MODEL, Score(3, "detection", 0.91, 25, MODEL.id, 0.8, 0.97, 0.88, "gpt-x", details=details),
        WEAK, Score(5, "detection", 0.55, 25, WEAK.id, f1=0.5), Score(3, "intruder", 0.8, 6)])
    browsable.app.state.catalog.sync_if_changed()  # type: ignore[attr-defined]
    return browsable


def read(client: TestClient, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return html.unescape(re.sub(r"<[^>]*>", "", answer.text))


def sign_in(client: TestClient, name: str = "bob") -> None:
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        user = accounts.set_password(db, name, "correct horse", admin=False)
        client.cookies.set(accounts.COOKIE, accounts.open_session(db, user, client.app.state.settings))  # type: ignore[attr-defined]


def test_a_latents_page_shows_explanations_with_scores_and_mistakes(explained: TestClient) -> None:
    page = read(explained, f"/{BATCH}/3")
    for said in (TEXT, "gpt-x · saescope · explain-1", "detection", "0.91", "0.80 to 0.97", "F1 0.88",
                 "against near miss: 0.75", "2 answers could not be read", "got wrong", "x ⟦raise⟧", "intruder"):
        assert said in page, said
    assert "<raise>" not in explained.get(f"/{BATCH}/3").text
    assert 'id="explanations"' not in explained.get(f"/{BATCH}/4").text  # nothing to say, and nobody to write


def test_the_json_has_them_and_is_fresh(explained: TestClient) -> None:
    answer = explained.get(f"/{BATCH}/3.json")
    [one] = answer.json()["explanations"]
    assert (one["text"], one["kind"], one["model"], one["chosen"]) == (TEXT, "model", "gpt-x", False)
    assert one["scores"][0]["details"]["sorts"]["near"]["balanced_accuracy"] == 0.75
    assert "etag" not in answer.headers
    assert "etag" in explained.get(f"/{BATCH}/4.json").headers


def test_the_table_names_sorts_and_filters(explained: TestClient) -> None:
    page = read(explained, f"/{BATCH}/latents")
    assert TEXT in page
    rows = explained.get(f"/{BATCH}/latents.json?sort=explained&dir=desc").json()
    assert [row["latent"] for row in rows["latents"][:2]] == [3, 5]
    assert rows["names"]["3"]["text"] == TEXT
    assert rows["names"]["3"]["score"] == 0.88
    by_model = explained.get(f"/{BATCH}/latents.json?explained=model").json()
    assert [row["latent"] for row in by_model["latents"]] == [3, 5]
    without = explained.get(f"/{BATCH}/latents.json?explained=none&limit=1000").json()
    assert without["total"] == 158
    assert explained.get(f"/{BATCH}/latents.json?explained=person").json()["total"] == 0
    assert "explanation F1" in read(explained, f"/{BATCH}/latents?sort=explained")
    assert explained.get(f"/{BATCH}/latents?explained=nobody").status_code == 422
    by_text = explained.get(f"/{BATCH}/latents.json", params={"label": "KEYWORD"}).json()
    assert [row["latent"] for row in by_text["latents"]] == [3]


def test_the_search_finds_explanations(explained: TestClient) -> None:
    found = explained.get("/search.json", params={"q": "KEYWORD", "sae": BATCH}).json()["latents"]
    assert [(row["latent"], row["reasons"][0]["kind"]) for row in found] == [(3, "explanation")]


def test_the_sae_page_shows_the_share_explained(explained: TestClient) -> None:
    page = read(explained, f"/{BATCH}")
    assert "Explained latents" in page
    assert re.search(r"by a model\s*1\s*", page)  # one has an F1 of 0.7 or more


def test_people_write_choose_and_delete(explained: TestClient) -> None:
    base = f"/{BATCH}/3/explanations"
    assert explained.post(base, data={"text": "mine"}).status_code == 401
    assert "mine" not in read(explained, f"/{BATCH}/3")
    sign_in(explained)
    assert explained.post(base, data={"text": "mine"}).headers["location"] == f"/{BATCH}/3#explanations"
    own = next(one for one in explained.get(f"/{BATCH}/3.json").json()["explanations"] if one["text"] == "mine")
    assert (own["author"], own["kind"], own["chosen"]) == ("bob", "person", True)
    assert explained.get(f"/{BATCH}/latents.json").json()["names"]["3"]["text"] == "mine"
    card = explained.post(f"{base}/{MODEL.id}/choose", headers={"HX-Request": "true"})
    assert card.text.count("chosen</span>") == 1
    assert explained.get(f"/{BATCH}/latents.json").json()["names"]["3"]["text"] == TEXT
    assert explained.post(f"{base}/{MODEL.id}/delete").status_code == 404  # made by a run
    assert explained.post(f"{base}/none/choose").status_code == 404
    assert explained.post(f"{base}/{own['id']}/burn").status_code == 404
    assert explained.post(base, data={"text": " "}).status_code == 422
    sign_in(explained, "eve")
    assert explained.post(f"{base}/{own['id']}/delete").status_code == 404
    sign_in(explained)
    assert explained.post(f"{base}/{own['id']}/delete").status_code == 303
    assert "mine" not in read(explained, f"/{BATCH}/3")


def test_a_label_stays_what_people_see_first(explained: TestClient) -> None:
    sign_in(explained)
    explained.post(f"/{BATCH}/3/label", data={"text": "raise statements"})
    assert explained.get(f"/{BATCH}/latents.json").json()["names"]["3"] | {"id": ""} == {
        "text": "raise statements", "kind": "person", "score": None, "scorer": "", "id": "", "rule": None}
    page = read(explained, f"/{BATCH}/3")
    assert page.index("raise statements") < page.index(TEXT)


def test_the_form_estimates_and_starts_a_run(explained: TestClient, admin: TestClient) -> None:
    values = {"sae": BATCH, "latents": "#3,#5", "explainer": "endpoint", "address": "http://localhost:1/v1",
              "model": "m", "price_in": "1", "concurrency": "2"}
    said = html.unescape(re.sub(r"<[^>]*>", " ", admin.get("/admin/explain/estimate", params=values).text))
    assert re.search(r"latents\s+2\s", said)
    assert "requests" in said
    assert "saescope explain" in said
    page = html.unescape(admin.get(f"/admin/explain?sae={BATCH}&latents=%233").text)
    assert 'value="#3"' in page
    assert admin.post("/admin/explain", data=values).status_code == 303
    [run] = [run for run in admin.get("/api/runs").json() if run["kind"] == "explain"]
    assert run["title"] == f"Explain {BATCH}"
    for wrong, field in (({"latents": "many"}, "latents"), ({"model": ""}, "model"),
                         ({"latents": "starred"}, "latents"), ({"sae": "demo/none"}, "sae"),
                         ({"address": "http://me:secret@h/v1"}, "address")):
        answer = admin.post("/admin/explain", data=values | wrong)
        assert answer.status_code == 422, wrong
        assert f'id="error-{field}"' in answer.text
    admin.post(f"/{BATCH}/7/label", data={"star": "1"})
    assert admin.post("/admin/explain", data=values | {"latents": "starred"}).status_code == 303


def test_rules_of_the_build_count_as_explanations(
    explained: TestClient, workspace: Workspace, made: dict[str, Synthetic]
) -> None:
    explained.app.state.builds.close()  # type: ignore[attr-defined]
    give_rules(workspace.build(BATCH, made[BATCH].path.stem))  # good ones of 3 and 4, a weak one of 5
    counts = explained.get(f"/{BATCH}/latents.json?explained=rule").json()
    assert [row["latent"] for row in counts["latents"]] == [3, 4]
    assert explained.get(f"/{BATCH}/latents.json?explained=none").json()["total"] == 157
    rows = explained.get(f"/{BATCH}/latents.json?sort=explained&dir=desc").json()["latents"]
    assert [row["latent"] for row in rows[:3]] == [3, 4, 5]
    page = read(explained, f"/{BATCH}")
    assert re.search(r"by a rule\s*2\s*", page)
    assert "Latents by the score of their best explanation" in page


def test_a_filter_of_the_table_chooses_the_latents_of_a_run(explained: TestClient, admin: TestClient) -> None:
    page = admin.get(f"/{BATCH}/latents?explained=model").text
    assert f'href="/{BATCH}/latents/explain?explained=model"' in page
    answer = admin.get(f"/{BATCH}/latents/explain?explained=model")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/admin/explain?sae={BATCH.replace('/', '%2F')}&latents=%233%2C%235"
    assert 'value="#3,#5"' in html.unescape(admin.get(answer.headers["location"]).text)
    admin.cookies.clear()
    assert admin.get(f"/{BATCH}/latents/explain").status_code in (303, 401)


def test_a_run_scores_what_people_wrote(explained: TestClient, admin: TestClient, workspace: Workspace) -> None:
    alive = {row["latent"] for row in admin.get(f"/{BATCH}/latents.json?flag=alive&limit=1000").json()["latents"]}
    n = min(alive - {3, 5})
    admin.post(f"/{BATCH}/{n}/label", data={"text": "a label"})
    admin.post(f"/{BATCH}/{n}/explanations", data={"text": "a remark"})
    assert 'explainer=existing">Score these…' in admin.get(f"/{BATCH}/{n}").text
    page = admin.get(f"/admin/explain?sae={BATCH}&latents=%23{n}&explainer=existing").text
    assert "<option selected>existing</option>" in page
    values = {"sae": BATCH, "latents": "all", "explainer": "existing", "address": "http://localhost:1/v1",
              "model": "m"}
    said = html.unescape(re.sub(r"<[^>]*>", " ", admin.get("/admin/explain/estimate", params=values).text))
    assert re.search(rf"latents\s+{len(alive & {n, 3, 5})}\s", said)  # those with an explanation
    assert admin.post("/admin/explain", data=values).status_code == 303
    people = results.read_all(workspace.sae(BATCH))
    assert {one.text: one.id for one in people if isinstance(one, Explanation) and one.latent == n}.keys() == {
        "a label", "a remark"}
    results.append(workspace.sae(BATCH), [
        Score(n, "detection", 0.9, 25, f"label-{n}", f1=0.9, details={"of": "a label", "seen": True})])
    explained.app.state.catalog.sync_if_changed()  # type: ignore[attr-defined]
    assert "its author may have seen these texts" in read(admin, f"/{BATCH}/{n}")
    assert admin.get(f"/{BATCH}/latents.json").json()["names"][str(n)]["score"] == 0.9
    admin.post(f"/{BATCH}/{n}/label", data={"text": "another label"})  # the score was of the text before
    assert admin.get(f"/{BATCH}/latents.json").json()["names"][str(n)]["score"] is None
