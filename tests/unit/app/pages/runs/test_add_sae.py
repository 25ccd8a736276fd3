"""The page "Add an SAE": what it asks for, what it keeps, what it starts."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import save_file

from app.access import accounts
from app.jobs.launchers.local import LocalLauncher
from app.settings import Settings
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace
from tests import FIXTURES

SAES = FIXTURES / "saes"
FOLDER = SAES / "saelens" / "jumprelu"
FACTS = {"model": "demo", "hook": "blocks.2.hook_resid_post"}


@pytest.fixture
def small_admin(settings: Settings, launcher: LocalLauncher) -> Iterator[TestClient]:
    """An administrator of a program that takes 2 kB."""
    from app.main import create_app

    small = settings.model_copy(update={"max_upload_bytes": 2_000})
    with TestClient(create_app(small, launcher=launcher, supervise=False), follow_redirects=False) as client:
        with client.app.state.sessions() as db:  # type: ignore[attr-defined]
            user = accounts.set_password(db, "ada", "correct horse")
            client.cookies.set(accounts.COOKIE, accounts.open_session(db, user, settings))
        yield client


def upload(*paths: Path) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (path.name, path.read_bytes())) for path in paths]


def run_of(address: str, workspace: Workspace) -> RunFolder:
    assert address.startswith("/runs/import-")
    return RunFolder(workspace.run(address.rpartition("/")[2]))


def test_the_form_says_what_it_takes(admin: TestClient) -> None:
    page = admin.get("/admin/import").text
    for words in ("Gemma Scope", "SAELens", 'type="file"', 'name="hook"', "multipart/form-data", "at the most"):
        assert words in page, words
    assert "/admin/import" in admin.get("/admin").text


def test_strangers_may_not(client: TestClient, workspace: Workspace) -> None:
    assert client.get("/admin/import", follow_redirects=False).status_code == 303
    answer = client.post("/admin/import", files=upload(FOLDER / "cfg.json"))
    assert answer.status_code == 401
    assert not (workspace.root / "uploads").exists()


def test_uploaded_files_go_to_their_run(admin: TestClient, workspace: Workspace) -> None:
    answer = admin.post("/admin/import", files=upload(*FOLDER.iterdir()), data=FACTS, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    folder = run_of(answer.headers["location"], workspace)
    kind, spec = folder.spec()
    assert kind == "import"
    assert spec["source"] == str(folder.path / "upload")
    assert {path.name for path in (folder.path / "upload").iterdir()} == {"cfg.json", "sae_weights.safetensors"}
    assert not list((workspace.root / "uploads").iterdir())
    page = admin.get(answer.headers["location"]).text
    assert "Import an upload" in page
    assert f'value="{folder.path / "upload"}"' in admin.get(f"/admin/import?run={folder.id}").text


def test_what_the_file_does_not_say_is_asked_for_and_the_files_are_kept(
    admin: TestClient, workspace: Workspace, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.safetensors"
    rng = np.random.default_rng(0)
    save_file({"W_enc": rng.random((12, 40), np.float32), "W_dec": rng.random((40, 12), np.float32),
               "b_enc": np.zeros(40, np.float32), "b_dec": np.zeros(12, np.float32)}, weights)
    page = admin.post("/admin/import", files=upload(weights))
    assert page.status_code == 422
    for name in ("model", "hook", "bos", "architecture", "subtract_b_dec"):
        assert f'id="error-{name}"' in page.text, name
    assert "Uploaded: weights.safetensors" in page.text
    assert "<dt>latents (L)</dt><dd>40</dd>" in page.text
    found = re.search(r'name="upload" value="(\w+)"', page.text)
    assert found
    facts = {**FACTS, "bos": "yes", "architecture": "relu", "subtract_b_dec": "no", "upload": found[1]}
    answer = admin.post("/admin/import", data=facts, files={"files": ("", b"")}, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    folder = run_of(answer.headers["location"], workspace)
    assert (folder.path / "upload" / "weights.safetensors").is_file()


@pytest.mark.parametrize(("name", "data", "says"), [
    ("ae.pt", b"no pickle at all", "is not a PyTorch file"),
    ("sae.safetensors", bytes(100), "is not a safetensors file"),
    ("notes.txt", b"hello", "holds no known kind of SAE"),
    ("sae.zip", b"PK\x03\x04", "is damaged or cut short"),
], ids=["pickle", "safetensors", "text", "zip"])
def test_a_damaged_upload_is_refused_and_not_kept(
    admin: TestClient, workspace: Workspace, name: str, data: bytes, says: str
) -> None:
    page = admin.post("/admin/import", files=[("files", (name, data))], data=FACTS)
    assert page.status_code == 422
    assert says in page.text
    assert not list((workspace.root / "uploads").iterdir())
    assert not (workspace.root / "runs").exists()


def test_a_zip_with_a_member_outside_is_refused(admin: TestClient, workspace: Workspace) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("../../evil.txt", b"x")
    page = admin.post("/admin/import", files=[("files", ("sae.zip", data.getvalue()))])
    assert page.status_code == 422
    assert "could leave the folder" in page.text
    assert not list(workspace.root.parent.rglob("evil*"))


@pytest.mark.usefixtures("real_processes")
def test_a_path_on_the_server(admin: TestClient, workspace: Workspace) -> None:
    answer = admin.post("/admin/import", data={**FACTS, "source": str(FOLDER)}, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    assert run_of(answer.headers["location"], workspace).spec()[1]["source"] == str(FOLDER)
    page = admin.post("/admin/import", data={**FACTS, "source": "/nowhere"})
    assert page.status_code == 422
    assert "there is no file or folder /nowhere" in page.text


def test_nothing_given_is_said_at_its_field(admin: TestClient) -> None:
    page = admin.post("/admin/import", data={"source": ""})
    assert page.status_code == 422
    assert 'id="error-source"' in page.text


def test_a_double_click_starts_one_run(admin: TestClient, workspace: Workspace) -> None:
    data = {**FACTS, "source": str(FOLDER), "key": "form-1"}
    places = {admin.post("/admin/import", data=data, follow_redirects=False).headers["location"] for _ in range(2)}
    assert len(places) == 1


def test_an_upload_that_is_too_large_is_refused(small_admin: TestClient, workspace: Workspace) -> None:
    page = small_admin.post("/admin/import", files=[("files", ("ae.pt", bytes(3_000)))])
    assert page.status_code == 422
    assert "SAESCOPE_MAX_UPLOAD_BYTES" in page.text
    assert not list((workspace.root / "uploads").iterdir())
    assert small_admin.post("/admin/import", files=[("files", ("ae.pt", bytes(1_100_000)))]).status_code == 413
    assert not list((workspace.root / "uploads").iterdir())


def test_messages_name_the_file_and_not_its_folder(admin: TestClient) -> None:
    page = admin.post("/admin/import", files=[("files", ("notes.txt", b"hello"))], data=FACTS).text
    assert "notes.txt" in page
    assert not re.search(r"[0-9a-f]{24}", page.split("<form", 2)[2].split("</form>")[0].replace("form-", ""))
    page = admin.post("/admin/import", data={"source": ""}).text
    assert "Choose files, or give a path on this server or a Hugging Face name." in page
