"""Admin ▸ SAEs: notes, hiding, renaming and deleting, also while the SAE is in use."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from app.db.tables import Inspection, SteerRun
from app.jobs import queue
from app.library import labels
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH, TOP

PAGES = ("", "/latents", "/tokens", "/3", ".json", "/labels.json")


@pytest.fixture
def boss(boss: TestClient) -> TestClient:
    """An administrator before a program with two SAEs, with labels and stored texts of the first."""
    with boss.app.state.sessions() as db:  # type: ignore[attr-defined]
        labels.save(db, BATCH, 3, "ada", text="braces")
        labels.save(db, TOP, 4, "ada", text="stays")
        db.add(SteerRun(id="steer-1", sae_id=BATCH, request=_request(BATCH), state="stopped"))
        db.add(Inspection(id="i1", request={"sae": BATCH, "text": f"about {BATCH}"}))
        db.commit()
    return boss


def _request(sae_id: str) -> dict[str, object]:
    """What a steering run stores of its request."""
    facts = {"id": sae_id, "model": "demo", "layer": 2, "n_latents": 160, "d_model": 256, "normalize": "layer_norm",
             "build": "index-1", "median_norm": 1.0}
    steered = {"sae": sae_id, "layer": 2, "latent": 1, "max_act": 1}
    return {"steer": {"model": "demo", "prompt": "x", "interventions": [steered]}, "saes": {sae_id: facts}}


def _labels(client: TestClient, sae_id: str) -> dict[int, str]:
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        return labels.texts(db, sae_id)


def test_a_note_is_shown_and_kept_with_the_files(boss: TestClient, workspace: Workspace) -> None:
    boss.post(f"/admin/saes/{BATCH}/note", data={"note": "the good <one>"})
    assert "the good &lt;one&gt;" in boss.get("/admin").text
    assert (workspace.sae(BATCH) / "notes.json").is_file()
    assert boss.post(f"/admin/saes/{BATCH}/note", data={"note": "x" * 2001}).status_code == 422
    boss.post(f"/admin/saes/{BATCH}/note", data={"note": ""})
    assert "the good" not in boss.get("/admin").text


def test_a_hidden_sae_is_left_out_of_the_menu_and_still_there(boss: TestClient) -> None:
    boss.post(f"/admin/saes/{BATCH}/note", data={"hidden": "yes"})
    assert f'href="/{BATCH}"' not in boss.get("/runs").text
    assert f'href="/{TOP}"' in boss.get("/runs").text
    assert boss.get(f"/{BATCH}").status_code == 200
    assert "hidden" in boss.get("/admin").text
    listed = [f"{one['model']}/{one['sae']}" for one in boss.get("/api/saes").json()]
    assert listed == [TOP, BATCH]  # last, so that no page begins with it
    boss.post(f"/admin/saes/{BATCH}/note")
    assert f'href="/{BATCH}"' in boss.get("/runs").text


def test_deleting_says_what_goes_asks_and_leaves_nothing(boss: TestClient, workspace: Workspace) -> None:
    for page in PAGES:
        assert boss.get(f"/{BATCH}{page}").status_code == 200, page  # its build is open now
    address = f"/admin/saes/{BATCH}/delete"
    question = boss.get(address).text
    for fact in ("<dt>builds</dt><dd>1</dd>", "<dt>labelled latents</dt><dd>1</dd>", "MB"):
        assert fact in question
    assert boss.post(address).headers["location"] == address
    assert boss.get(f"/{BATCH}").status_code == 200
    assert boss.post(address, data={"sure": "yes"}).headers["location"] == "/admin#saes"
    for page in (*PAGES, "/3.json", "/map"):
        answer = boss.get(f"/{BATCH}{page}", headers={"accept": "text/html"})
        assert answer.status_code == 404, page
        assert f"There is no SAE {BATCH}" in answer.text
    assert boss.get(address).status_code == 404
    assert [path for path in workspace.root.rglob("*") if "batchtopk" in path.name] == []
    assert not boss.app.state.builds._open.keys() & {(BATCH, "index-1")}  # type: ignore[attr-defined]
    assert (_labels(boss, BATCH), _labels(boss, TOP)) == ({}, {4: "stays"})
    for page in ("/", "/runs", "/admin", "/search?q=3", f"/compare?a={BATCH}&b={TOP}", f"/steer?sae={BATCH}",
                 f"/inspect?sae={BATCH}", "/steer/steer-1", "/steer/steer-1.json", "/steer/steer-1.py"):
        assert boss.get(page, headers={"accept": "text/html"}).status_code < 500, page


def test_renaming_moves_everything(boss: TestClient, workspace: Workspace) -> None:
    boss.get(f"/{BATCH}/3")
    boss.post(f"/admin/saes/{BATCH}/note", data={"note": "kept"})
    with boss.app.state.sessions() as db:  # type: ignore[attr-defined]
        run = queue.enqueue(db, workspace, "index", {"sae": BATCH}, "ada")
        queue.cancel(db, workspace, run.id)
    answer = boss.post(f"/admin/saes/{BATCH}/rename", data={"to": "best"})
    assert answer.headers["location"] == "/admin/saes/demo/best?saved=1"
    for page in (*PAGES, ".json", "/latents?sort=max&token=a%20b"):
        assert boss.get(f"/demo/best{page}").status_code == 200, page
        moved = boss.get(f"/{BATCH}{page}")
        assert (moved.status_code, moved.headers["location"]) == (307, f"/demo/best{page}")
    assert boss.get(f"/{BATCH}-else").status_code == 404
    assert "kept" in boss.get("/admin/saes/demo/best").text
    assert _labels(boss, "demo/best") == {3: "braces"}
    with boss.app.state.sessions() as db:  # type: ignore[attr-defined]
        assert db.get_one(SteerRun, "steer-1").request == _request("demo/best")
        assert db.get_one(Inspection, "i1").request == {"sae": "demo/best", "text": f"about {BATCH}"}
    assert boss.get(f"/api/runs/{run.id}").json()["sae"] == "demo/best"


def test_a_former_name_that_another_sae_gets_is_its(boss: TestClient, workspace: Workspace) -> None:
    name = BATCH.partition("/")[2]
    for sae, to in ((BATCH, "best"), ("demo/best", "better"), (TOP, name)):
        boss.post(f"/admin/saes/{sae}/rename", data={"to": to})
    assert boss.get(f"/{BATCH}").status_code == 200, "it is the other one now"
    assert boss.get("/demo/best").headers["location"] == "/demo/better"
    assert boss.get(f"/{TOP}").headers["location"] == f"/{BATCH}"
    boss.post("/admin/saes/demo/better/rename", data={"to": "best"})
    assert boss.get("/demo/best").status_code == 200
    assert boss.get("/demo/better").headers["location"] == "/demo/best"


@pytest.mark.parametrize("to", ["", "a b", "../x", "admin", TOP.partition("/")[2], "demo/x"])
def test_bad_names_come_back_with_a_message(boss: TestClient, to: str) -> None:
    answer = boss.post(f"/admin/saes/{BATCH}/rename", data={"to": to})
    assert answer.status_code == 422
    assert f'value="{to}"' in answer.text
    assert 'role="alert"' in answer.text
    assert boss.get(f"/{BATCH}").status_code == 200


@pytest.mark.parametrize("kind", ["index", "compare", "train"])
def test_an_sae_that_a_run_works_with_stays(boss: TestClient, workspace: Workspace, kind: str) -> None:
    spec = {"index": {"sae": BATCH}, "compare": {"a": TOP, "b": BATCH}, "train": {"model": "demo"}}[kind]
    with boss.app.state.sessions() as db:  # type: ignore[attr-defined]
        run = queue.enqueue(db, workspace, kind, spec, "ada")  # type: ignore[arg-type]
    if kind == "train":
        (workspace.run(run.id) / "sae_id.txt").write_text(f"demo/else\n{BATCH}")
    answer = boss.post(f"/admin/saes/{BATCH}/delete", data={"sure": "yes"})
    assert answer.status_code == 409
    assert f'href="/runs/{run.id}"' in answer.text
    assert boss.post(f"/admin/saes/{BATCH}/rename", data={"to": "best"}).status_code == 422
    assert boss.get(f"/{BATCH}/3").status_code == 200
    boss.post(f"/runs/{run.id}/cancel")
    assert boss.post(f"/admin/saes/{BATCH}/delete", data={"sure": "yes"}).status_code == 303


def test_only_administrators_may(browsable: TestClient) -> None:
    for page in ("", "/delete"):
        assert browsable.get(f"/admin/saes/{BATCH}{page}").headers["location"].startswith("/login")
