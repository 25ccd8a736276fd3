"""Files of explanations that an administrator uploads or names: their forms, their limits, what is said of them."""

from __future__ import annotations

import html
import io
import json
import re
import zipfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from sae.explain import results
from sae.explain.records import Explanation
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH
from tests.unit.sae.explain.exchange.exchanged import dump_row

HERE = f"/{BATCH}/explanations"
SCORES = [{"activating": i < 2, "prediction": i < 1} for i in range(4)]


def zipped(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def delphi(root: str, *modules: str) -> dict[str, str]:
    return {f"{root}{part}/{module}_latent3.txt": content for module in modules
            for part, content in (("explanations", '"cats"'), ("scores/detection", json.dumps(SCORES)))}


def texts(workspace: Workspace) -> dict[int, str]:
    return {one.latent: one.text for one in results.read(workspace.sae(BATCH))[0] if isinstance(one, Explanation)}


@pytest.mark.parametrize("root", ["", "run/", "deep/run/"])
def test_a_zip_of_delphis_folder(browsable: TestClient, admin: TestClient, workspace: Workspace, root: str) -> None:
    done = admin.post(HERE, files={"file": ("run.zip", zipped(delphi(root, "layers.5")))})
    assert done.headers["location"] == f"/{BATCH}/latents?explained=model&added=1"
    [one] = admin.get(f"/{BATCH}/3.json").json()["explanations"]
    assert (one["text"], one["scores"][0]["value"]) == ("cats", 0.75)
    assert "1 explanation imported." in admin.get(done.headers["location"]).text
    again = admin.post(HERE, files={"file": ("run.zip", zipped(delphi(root, "layers.5")))})
    assert "The SAE had all of them already." in admin.get(again.headers["location"]).text
    assert list((workspace.root / "uploads").iterdir()) == []


def test_several_files_and_a_source(browsable: TestClient, admin: TestClient, workspace: Workspace) -> None:
    files = [("file", (f"layers.{i}_latent{i}.txt", json.dumps(f"text {i}"))) for i in (5, 6)]
    refused = admin.post(HERE, files=files)
    assert refused.status_code == 422
    assert "several modules (layers.5, layers.6); name one of them" in refused.text
    assert admin.post(HERE, files=files, data={"source": "layers.6"}).status_code == 303
    assert texts(workspace) == {6: "text 6"}


def test_a_path_on_the_server(browsable: TestClient, admin: TestClient, workspace: Workspace, tmp_path: Path) -> None:
    rows = [json.dumps(dump_row("3")), json.dumps(dump_row("4", id="other"))]
    (tmp_path / "batch-0.jsonl").write_text("\n".join(rows))
    assert admin.post(HERE, data={"path": str(tmp_path)}).status_code == 303
    assert set(texts(workspace)) == {3, 4}
    assert "there is no" in admin.post(HERE, data={"path": str(tmp_path / "none")}).text


@pytest.mark.parametrize(("name", "content", "said"), [
    ("e.jsonl", b"x", "is no file of explanations|not JSON"), ("e.zip", b"x", "not a zip|damaged|zip"),
    ("e.zip", zipped({"a/explanations/latent3.txt": "{"}), "latent3.txt: it is not JSON"),
    ("e.zip", zipped({"x.bin": "y"}), "x.bin"), ("e.zip", zipped({"../x.txt": "y"}), "could leave the folder"),
    ("e.zip", zipped({"a/b.bin": "y", "a/c.bin": "z"}), "is no file of explanations")])
def test_other_files_are_refused_in_one_line(
    browsable: TestClient, admin: TestClient, workspace: Workspace, name: str, content: bytes, said: str,
) -> None:
    refused = admin.post(HERE, files={"file": (name, content)})
    assert refused.status_code == 422
    shown = html.unescape(re.sub(r"<[^>]*>", " ", refused.text))
    assert re.search(said, shown), shown[-800:]
    assert not re.search("[0-9a-f]{32}", shown), "the name of the upload is ours"
    assert list((workspace.root / "uploads").iterdir()) == []


def test_uploads_have_the_limit_of_other_imports(
    browsable: TestClient, admin: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A body may be larger than that of other requests, up to the limit of uploads."""
    rows = "\n".join(json.dumps(dump_row("3", id=str(i), embedding=[0.1234567] * 256)) for i in range(1000))
    state = browsable.app.state  # type: ignore[attr-defined]
    assert len(rows) > state.settings.max_body_bytes
    assert admin.post(HERE, files={"file": ("e.jsonl", rows)}).status_code == 303
    smaller = state.settings.model_copy(update={"max_upload_bytes": 1000})
    monkeypatch.setattr(state, "settings", smaller)
    refused = admin.post(HERE, files={"file": ("e.jsonl", rows)})
    assert refused.status_code == 422
    assert "SAESCOPE_MAX_UPLOAD_BYTES" in refused.text


def test_only_administrators_import_and_they_give_something(browsable: TestClient, admin: TestClient) -> None:
    nothing = admin.post(HERE)
    assert nothing.status_code == 422
    assert "choose a file of explanations, or give a path on this server" in nothing.text
    admin.cookies.clear()
    assert browsable.post(HERE, files={"file": ("e.jsonl", "x")}).status_code == 401
