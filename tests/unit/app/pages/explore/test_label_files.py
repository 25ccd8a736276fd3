"""Tests of labels as files, out and in."""

from __future__ import annotations

from fastapi.testclient import TestClient

from app.library import labels, stars
from tests.unit.app.conftest import BATCH, TOP


def test_labels_out_and_in(admin: TestClient, browsable: TestClient) -> None:
    admin.post(f"/{BATCH}/3/label", data={"text": "=first", "note": "n", "tags": "t", "star": "1"})
    as_json, as_csv = (admin.get(f"/{BATCH}/labels.{kind}") for kind in ("json", "csv"))
    assert as_json.json()["labels"][0] | {"updated": 0} == {
        "latent": 3, "text": "=first", "tags": "t", "note": "n", "starred": True, "author": "ada", "updated": 0}
    assert "attachment" in as_csv.headers["content-disposition"]
    for name, content in (("l.json", as_json.content), ("l.csv", as_csv.content)):
        answer = admin.post(f"/{TOP}/labels", files={"file": (name, content)})
        first = name == "l.json"
        assert (answer.status_code, answer.headers["location"]) == (
            303, f"/{TOP}/latents?labelled=1&imported={'1-0-0' if first else '0-0-1'}")
        said = "1 new, 0 replaced, 0 unchanged" if first else "0 new, 0 replaced, 1 unchanged"
        assert said in browsable.get(answer.headers["location"]).text
        with browsable.app.state.sessions() as db:  # type: ignore[attr-defined]
            row = labels.get(db, TOP, 3)
            assert row is not None
            assert (row.text, row.tags, stars.of_anyone(db, TOP)) == ("=first", "t", frozenset({3}))
    bad = admin.post(f"/{TOP}/labels", files={"file": ("l.csv", b"latent\n9999\n")})
    assert (bad.status_code, "0 to 159" in bad.text) == (422, True)
