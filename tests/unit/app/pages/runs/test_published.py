"""Tests of the page where administrators add result files of SAEBench."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.pages.runs import published
from sae.evaluation.published import write_published
from sae.evaluation.synthetic.kept import results
from sae.workspace.paths import Workspace
from tests.unit.sae.evaluation.test_saebench import theirs

PAGE = "/admin/published"


def upload(client: TestClient, *contents: Any, names: tuple[str, ...] = ("a.json", "b.json")) -> Any:
    files = [("files", (name, content if isinstance(content, bytes) else json.dumps(content).encode()))
             for name, content in zip(names, contents, strict=False)]
    return client.post(PAGE, files=files)


def test_uploaded_results_stand_in_the_table_and_the_plot_of_their_model(
    admin: TestClient, browsable: TestClient, workspace: Workspace
) -> None:
    here = theirs(sae_cfg_dict={"model_name": "demo", "hook_name": "blocks.2.hook_resid_post", "d_sae": 512,
                                "architecture": "topk"})
    answer = upload(admin, here, {"rel": theirs(sae_lens_id="<b>x</b>", sae_cfg_dict=here["sae_cfg_dict"])})
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PAGE}?added=2")
    page = admin.get(answer.headers["location"]).text
    assert "2 results were added." in page
    assert "release/&lt;b&gt;x&lt;/b&gt;" in page
    model = admin.get("/demo?x=l0&y=explained_variance_legacy").text
    assert "release/blocks.3/x" in model
    assert "published: SAEBench" in model
    assert "TopK, published" in model  # in the legend of the plot
    assert 'href="/admin/published"' in model
    assert any(one["name"] == "release/blocks.3/x" for one in admin.get("/demo.json").json()["published"])
    gone = admin.post(f"{PAGE}/remove", data={"model": "demo", "sae": "release/blocks.3/x"})
    assert gone.headers["location"] == f"{PAGE}?removed=1"
    assert "The results were removed." in admin.get(gone.headers["location"]).text
    assert "release/blocks.3/x" not in admin.get("/demo").text
    assert admin.post(f"{PAGE}/remove", data={"model": "demo", "sae": "release/blocks.3/x"}).status_code == 422


def test_a_synthetic_world_has_a_page_with_its_anchors(client: TestClient, workspace: Workspace) -> None:
    rows = [{"dictionary": name, "seed": seed, "mcc": mcc, "explained_variance": mcc, "l0": 2.0, "dead": 0.0}
            for name, seed, mcc in (("perfect", None, 1.0), ("random", None, 0.25), ("batch_topk", 0, 0.625))]
    for one in results("small", rows, {"batch_topk": {"mcc": 0.757}}, 128, 2):
        write_published(workspace, one)
    page = client.get("/synthetic-small?x=l0&y=mcc&sort=mcc&dir=desc").text
    names = ["perfect dictionary", "batch_topk, mean of seeds", "batch_topk, seed 0", "random dictionary"]
    places = [page.index(f'<td class="mono">{name}<span') for name in names]
    assert places == sorted(places)
    assert "BatchTopK, published" in page
    assert "All SAEs of this model are published results" in page


def test_all_files_are_kept_or_none(admin: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "MAX_FILE_BYTES", 5_000)
    monkeypatch.setattr(published, "MAX_FILES", 2)
    for contents, said in (
            ((theirs(), b"{"), "b.json is not JSON"), ((theirs(), {"x": 1}), "b.json is no result of SAEBench"),
            ((theirs(), b"[" * 4_000), "nested too deeply"), ((b"\xff\xfe", theirs()), "a.json is not JSON"),
            ((theirs(), b" " * 6_000), "b.json is larger than 0 MB"), ((), "")):
        answer = upload(admin, *contents)
        assert answer.status_code == 422
        assert said in answer.text
        assert contents == () or 'aria-invalid="true"' in answer.text
    many = upload(admin, theirs(), theirs(), theirs(), names=("a.json", "b.json", "c.json"))
    assert "3 files were chosen; at most 2 are read at once" in many.text
    assert "0 published SAEs" in admin.get(PAGE).text


def test_only_administrators_add_results(client: TestClient) -> None:
    assert upload(client, theirs()).status_code in (303, 401, 403)
    assert client.get(PAGE).status_code in (303, 401, 403)
    assert not list(client.app.state.settings.workspace.root.glob("published/*/*"))  # type: ignore[attr-defined]
