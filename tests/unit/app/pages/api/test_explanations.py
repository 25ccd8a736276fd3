"""Explanations and files of labels by programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.system.browsers import add_user, sign_in

SAE = f"/api/saes/{BATCH}"
PLACE = f"{SAE}/latents/3/explanations"


def test_an_explanation_is_written_chosen_and_deleted(boss: TestClient) -> None:
    first, second = (boss.post(PLACE, json={"text": text}).json() for text in ("  braces ", "brackets"))
    assert (first["text"], first["author"], first["chosen"], second["chosen"]) == ("braces", "ada", True, False)
    for _ in range(2):  # saying it twice changes nothing
        assert boss.put(f"{PLACE}/{second['id']}/chosen", json={"chosen": True}).json() == {"chosen": True}
    assert {one["text"]: one["chosen"] for one in boss.get(PLACE).json()} == {"braces": False, "brackets": True}
    boss.put(f"{PLACE}/{second['id']}/chosen", json={"chosen": False})
    assert not any(one["chosen"] for one in boss.get(PLACE).json())
    add_user(boss, "eve")
    assert sign_in(boss, "eve").delete(f"{PLACE}/{first['id']}").status_code == 404
    assert boss.delete(f"{PLACE}/{first['id']}").status_code == 204
    assert boss.put(f"{PLACE}/{first['id']}/chosen", json={"chosen": True}).status_code == 404
    assert boss.post(PLACE, json={"text": " "}).json()["field"] == "text"


def test_labels_come_and_go_as_the_file_has_them(boss: TestClient) -> None:
    labels = [{"latent": 3, "text": "braces", "tags": "python"}, {"latent": 5, "text": "five", "starred": True}]
    assert boss.put(f"{SAE}/labels", json={"labels": labels}).json() == {"new": 2, "replaced": 0, "unchanged": 0}
    file = boss.get(f"/{BATCH}/labels.json").json()
    assert boss.put(f"{SAE}/labels", json=file).json() == {"new": 0, "replaced": 0, "unchanged": 2}
    assert boss.get(f"{SAE}/stars").json() == [5]
    wrong = boss.put(f"{SAE}/labels", json={"labels": [{"latent": 10**6, "text": "x"}]})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "file")


def test_files_on_the_server_are_read(boss: TestClient, tmp_path: Path) -> None:
    path = tmp_path / "explanations.jsonl"
    path.write_text(json.dumps({"index": "3", "description": "said by a model"}) + "\n", encoding="utf-8")
    assert boss.post(f"{SAE}/explanations", json={"path": str(path)}).json() == {"added": 1}
    assert [one["text"] for one in boss.get(PLACE).json()] == ["said by a model"]
    assert boss.post(f"{SAE}/explanations", json={"path": ""}).status_code == 422


def test_without_an_endpoint_nothing_is_asked(boss: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAESCOPE_LLM_URL", raising=False)
    answer = boss.post(f"{PLACE}/ask")
    assert answer.status_code == 422
    assert answer.json()["error"]


def test_readers_may_not(browsable: TestClient) -> None:
    assert browsable.get(PLACE).json() == []
    assert browsable.post(PLACE, json={"text": "x"}).status_code == 401
    assert browsable.post(f"{PLACE}/ask").status_code == 401
