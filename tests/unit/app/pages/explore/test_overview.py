"""Tests of an SAE's page, its map, and the page of a model."""

from __future__ import annotations

import os

from fastapi.testclient import TestClient

from sae.lm.conformance.report import Report, Row
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH, TOP, write_sae
from tests.unit.app.pages.html import json_of, links, page


def test_the_page_of_an_sae(browsable: TestClient) -> None:
    html = page(browsable, f"/{BATCH}")
    for said in ("0.1842", "ΔCE", "k = 12", "Density of latents", "Start here", "index-1", "saescope index"):
        assert said in html
    assert html.count("<polyline") >= 2, "training curves"
    assert json_of(browsable, f"/{BATCH}.json")["counts"]["all"] == 160


def test_an_sae_without_a_build(client: TestClient, workspace: Workspace) -> None:
    write_sae(workspace, BATCH)
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    assert "no index of contexts yet" in page(client, f"/{BATCH}")
    assert "saescope index" in page(client, f"/{BATCH}/latents", 404)
    assert f'href="/{BATCH}"' in page(client, "/")


def test_the_page_of_a_model_lists_its_saes(browsable: TestClient, workspace: Workspace) -> None:
    html = page(browsable, "/demo")
    assert "SAEs of demo" in html
    assert f'href="/{BATCH}"' in html
    assert "Trained for different lengths" not in html
    write_sae(workspace, "demo/short", training={"tokens": 200_000})
    browsable.app.state.catalog.sync()  # type: ignore[attr-defined]
    html = page(browsable, "/demo")
    assert "short on 200 k tokens" in html
    assert f'<a href="/{TOP}" aria-label="{TOP.removeprefix("demo/")}: L0 12.01, FVU 0.1842"><circle' in html
    assert len(json_of(browsable, "/demo.json")["saes"]) == 3
    assert set(links(page(browsable, "/nobody", 404))) == {"/demo", "/"}


def test_the_page_of_a_model_shows_what_holds_of_it(browsable: TestClient, workspace: Workspace) -> None:
    assert "tests compare the embedded model" in page(browsable, "/demo")
    assert json_of(browsable, "/demo.json")["conformance"] is None
    old, new = (Report("demo", "LlamaForCausalLM", [Row("logits", "holds"), Row("attn.hook_z", status, "no <matrix>")])
                for status in ("holds", "refused"))
    for report, number in ((old, "0"), (new, "1")):
        report.save(workspace.root / "conformance" / f"demo-{number * 24}.json")
    os.utime(workspace.root / "conformance" / f"demo-{'0' * 24}.json", (1, 1))
    Report("other", "X").save(workspace.root / "conformance" / f"demo-other-{'2' * 24}.json")
    html = page(browsable, "/demo")
    assert "plain LlamaForCausalLM" in html
    assert "<td>refused</td><td>no &lt;matrix&gt;</td>" in html
    assert json_of(browsable, "/demo.json")["conformance"]["rows"][1]["status"] == "refused"


def test_random_leads_to_an_alive_latent(browsable: TestClient) -> None:
    response = browsable.get(f"/{BATCH}/random")
    assert response.status_code == 303
    assert "Top contexts" in page(browsable, response.headers["location"])
