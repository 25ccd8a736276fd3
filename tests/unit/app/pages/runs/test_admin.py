"""The forms: every setting explained, nothing typed is lost, one run however often it is pressed."""

from __future__ import annotations

import html
import re
import shlex

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from app.pages.runs import spec_form
from app.pages.runs.admin import TITLES
from sae.specs.registry import POSITIONAL, SPECS, SweepSpec, TrainSpec, command_line, parse_spec
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae


def _fields(page: str) -> dict[str, str]:
    """What a browser would send of the form on the page, untouched."""
    form = page[page.index('id="run-form"'):page.index("</form>", page.index('id="run-form"'))]
    sent = {}
    for tag in re.findall(r"<input[^>]*>", form):
        name = re.search(r'name="([^"]*)"', tag)
        value = re.search(r'value="([^"]*)"', tag)
        if name and ('type="checkbox"' not in tag or " checked" in tag):
            sent[name[1]] = html.unescape(value[1] if value else "")
    for name, options in re.findall(r'<select[^>]*name="([^"]*)"[^>]*>(.*?)</select>', form, re.DOTALL):
        chosen = re.search(r"<option selected>([^<]*)", options)
        sent[name] = chosen[1] if chosen else re.findall(r"<option[^>]*>([^<]*)", options)[0]
    return sent


@pytest.mark.parametrize("kind", TITLES)
def test_every_setting_is_there_with_its_meaning(admin: TestClient, kind: str) -> None:
    page = html.unescape(admin.get(f"/admin/{kind}").text)
    for name, info in SPECS[kind].model_fields.items():
        assert f'name="{name}"' in page
        assert f"{info.description}." in page
        assert "style=" not in page


def test_an_untouched_form_is_the_default_run(admin: TestClient) -> None:
    answer = admin.post("/admin/train", data=_fields(admin.get("/admin/train").text))
    assert answer.status_code == 303
    run = admin.get(f"/api{answer.headers['location']}").json()
    assert (run["kind"], run["state"], run["requested_by"]) == ("train", "queued", "ada")
    from sae.runs.folder import RunFolder

    folder = RunFolder(admin.app.state.settings.workspace.run(run["id"]))  # type: ignore[attr-defined]
    assert folder.spec() == ("train", TrainSpec().model_dump())


@pytest.mark.parametrize("preset", [key for key in spec_form.PRESETS if key != "own"])
def test_presets_start_as_they_are(admin: TestClient, preset: str) -> None:
    assert admin.post("/admin/train", data=_fields(admin.get(f"/admin/train?preset={preset}").text)).status_code == 303


def test_an_untouched_sweep_is_the_default_one_and_its_page_lists_its_saes(admin: TestClient) -> None:
    answer = admin.post("/admin/sweep", data=_fields(admin.get("/admin/sweep").text))
    assert answer.status_code == 303
    run_id = answer.headers["location"].rpartition("/")[2]
    from sae.runs.folder import RunFolder

    kind, values = RunFolder(admin.app.state.settings.workspace.run(run_id)).spec()  # type: ignore[attr-defined]
    assert (kind, SweepSpec(**values)) == ("sweep", SweepSpec())
    page = admin.get(f"/runs/{run_id}").text
    assert f"{len(SweepSpec().members())} SAEs" in page
    assert "λ" not in page
    assert "saescope sweep" in page


@pytest.mark.parametrize("preset", [key for key in spec_form.SWEEPS if key != "paper"])
def test_presets_of_sweeps_start_as_they_are(admin: TestClient, preset: str) -> None:
    assert admin.post("/admin/sweep", data=_fields(admin.get(f"/admin/sweep?preset={preset}").text)).status_code == 303


def test_a_sweeps_error_stands_at_its_field(admin: TestClient) -> None:
    sent = {**_fields(admin.get("/admin/sweep").text), "k": "16, 9000"}
    answer = admin.post("/admin/sweep", data=sent)
    assert answer.status_code == 422
    assert "n_latents is 2048" in answer.text
    assert 'id="error-k"' in answer.text
    assert _fields(answer.text)["k"] == "16, 9000"
    assert "n_latents is 2048" in admin.get("/admin/sweep/estimate", params=sent).text
    assert "memory" in admin.get("/admin/sweep/estimate", params={**sent, "k": "16,32"}).text


def test_a_double_click_starts_one_run(admin: TestClient) -> None:
    sent = _fields(admin.get("/admin/train").text)
    first, second = (admin.post("/admin/train", data=sent).headers["location"] for _ in range(2))
    assert first == second
    assert len(admin.get("/api/runs").json()) == 1
    other = admin.post("/admin/train", data=_fields(admin.get("/admin/train").text)).headers["location"]
    assert other != first


@pytest.mark.parametrize(("changes", "field", "words"), [
    ({"k": "50", "n_latents": "10"}, "k", "n_latents is 10"),
    ({"k": "many"}, "k", "whole number"),
    ({"layer": "99"}, "layer", "0 to"),
    ({"context_length": "9999"}, "context_length", "8,192"),
    ({"context_length": "8192"}, "context_length", "at most"),
    ({"model": "/nowhere/model"}, "model", "not a directory"),
    ({"name": "a/b"}, "name", "not a usable name"),
    ({"name": "2-res-batchtopk-4k"}, "name", "already"),
    ({"architecture": "dense"}, "architecture", "batch_topk"),
    ({"architecture": "jumprelu", "bandwidth": "0"}, "bandwidth", "above 0"),
    ({"site": "hook_nowhere"}, "site", "hook_resid_post"),
    ({"architecture": "relu", "site": "hook_mlp_in", "out_site": "hook_mlp_out"}, "out_site", "not for relu"),
    ({"out_site": "hook_resid_pre"}, "out_site", "after hook_resid_post"),
    ({"batch_tokens": "1048576", "buffer_tokens": "1048576"}, "batch_tokens", "pre-activations"),
])
def test_errors_stand_at_their_field_and_nothing_is_lost(
    admin: TestClient, workspace: Workspace, changes: dict[str, str], field: str, words: str
) -> None:
    write_sae(workspace)
    admin.app.state.catalog.sync()  # type: ignore[attr-defined]
    sent = {**_fields(admin.get("/admin/train").text), "text": "/my/text <b>", **changes}
    answer = admin.post("/admin/train", data=sent)
    assert answer.status_code == 422
    error = re.search(rf'id="error-{field}"[^>]*>(.*?)</p>', answer.text, re.DOTALL)
    assert error is not None
    assert words in html.unescape(error[1])
    kept = _fields(answer.text)
    assert {name: kept.get(name) for name in sent if name not in ("architecture", "site")} == {
        name: value for name, value in sent.items() if name not in ("architecture", "site")}
    assert admin.get("/api/runs").json() == []


def test_several_errors_at_once(admin: TestClient) -> None:
    page = admin.post("/admin/train", data={"layer": "-1", "k": "0", "tokens": "x"}).text
    assert {"error-layer", "error-k", "error-tokens"} <= set(re.findall(r'id="(error-[a-z_]+)"', page))


def test_index_runs_want_an_sae_that_is_there(admin: TestClient, workspace: Workspace) -> None:
    assert admin.post("/admin/index", data={"sae": "demo/none"}).status_code == 422
    write_sae(workspace)
    admin.app.state.catalog.sync()  # type: ignore[attr-defined]
    page = admin.get("/admin/index?sae=demo/2-res-batchtopk-4k").text
    answer = admin.post("/admin/index", data=_fields(page))
    assert answer.status_code == 303
    assert admin.get(f"/api{answer.headers['location']}").json()["sae"] == "demo/2-res-batchtopk-4k"


def test_the_estimate_follows_the_form(admin: TestClient) -> None:
    def memory(n_latents: int) -> str:
        page = admin.get("/admin/train/estimate", params={"n_latents": n_latents, "model": "demo"}).text
        assert f"--n-latents {n_latents}" in page
        found = re.search(r"<dt>memory</dt><dd>([^<]*)", page)
        assert found
        return found[1]

    assert memory(8192) != memory(65536)
    assert "n_latents is 8" in admin.get("/admin/train/estimate", params={"n_latents": 8, "k": 9}).text
    assert "not on this machine" in admin.get("/admin/train/estimate", params={"model": "gpt2"}).text


@given(st.builds(
    TrainSpec, name=st.sampled_from(["", "a-b"]), text=st.sampled_from(["stdlib", "/a b/'c'"]),
    k=st.integers(1, 64), lr=st.sampled_from([0.0, 1e-4]), train_on_bos=st.booleans(), index=st.booleans(),
    architecture=st.sampled_from(["topk", "batch_topk"])))
def test_the_command_line_says_the_same(spec: TrainSpec) -> None:
    """Read back word by word, the command gives the very spec."""
    words = shlex.split(command_line("train", spec.model_dump()))
    assert words[:2] == ["saescope", "train"]
    values: dict[str, object] = {}
    rest = iter(words[2:])
    for word in rest:
        name = word.removeprefix("--").replace("-", "_")
        if TrainSpec.model_fields.get(name.removeprefix("no_")) and name.startswith("no_"):
            values[name.removeprefix("no_")] = False
        elif TrainSpec.model_fields[name].annotation is bool:
            values[name] = True
        else:
            values[name] = next(rest)
    assert parse_spec("train", values) == spec


def test_the_command_line_has_every_option_of_the_command() -> None:
    from typer.main import get_command

    from sae.cli.main import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    for kind in SPECS:
        known = {name for option in commands[kind].params for name in (*option.opts, *option.secondary_opts)}
        changed = {
            name: (not info.default if info.annotation is bool else "other")
            for name, info in SPECS[kind].model_fields.items()}
        shown = {word for word in shlex.split(command_line(kind, changed)) if word.startswith("--")}
        assert len(shown) == len(changed) - (kind in POSITIONAL)
        assert shown <= known


@pytest.mark.parametrize("address", ["/admin/train?preset=own", "/admin/sweep?preset=paper", "/admin/index"])
def test_nothing_is_at_fault_before_anything_was_typed(admin: TestClient, address: str) -> None:
    page = admin.get(address).text
    assert "error-text" not in page
    assert "first.</p>" in page  # it says what to fill in


@pytest.mark.parametrize(("kind", "text", "words"), [
    ("train", "/no/such/file.txt", "is not a file or directory"), ("sweep", "~/none", "is not a file or directory"),
    ("train", "owner/data", "could not be fetched"), ("index", "/no/such/file.txt", "is not a file or directory")])
def test_a_text_that_is_not_there_is_refused_at_once(
    admin: TestClient, workspace: Workspace, kind: str, text: str, words: str
) -> None:
    write_sae(workspace)
    admin.app.state.catalog.sync()  # type: ignore[attr-defined]
    sent = {**_fields(admin.get(f"/admin/{kind}?sae=demo/2-res-batchtopk-4k").text), "text": text}
    answer = admin.post(f"/admin/{kind}", data=sent)
    assert answer.status_code == 422
    error = re.search(r'id="error-text"[^>]*>(.*?)</p>', answer.text, re.DOTALL)
    assert error is not None
    assert words in error[1]
