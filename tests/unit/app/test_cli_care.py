"""Tests of `backup`, `restore`, `doctor` and `gc`, as commands and as functions."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from typer.testing import CliRunner

from app.cli import app
from app.db.engine import SessionFactory, make_engine, make_session_factory
from app.db.people_tables import Comment
from app.db.tables import Label, Run, User
from app.jobs import queue
from app.library import backup as engine_backup
from app.library import labels
from app.servers.presence import Presence
from app.settings import Settings
from sae.errors import UserError
from sae.runs.folder import RunFolder, Status
from sae.store.page_file import page_file_path
from sae.workspace.disk import RESTORING
from sae.workspace.files import HOST, write_json
from sae.workspace.paths import Workspace
from tests import postgres
from tests.builds import make_build
from tests.unit.app.conftest import write_sae
from tests.unit.app.pages.explore.test_damaged_saes import write_weights

SAE = "demo/2-one"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_build(tmp_path_factory.mktemp("care") / "b1.duckdb", n_latents=20, n_contexts=8, sae_id=SAE).path


@pytest.fixture
def full(workspace: Workspace, sessions: SessionFactory, build: Path) -> Workspace:
    """A workspace with an SAE, a build, a label, a user and an interrupted run."""
    write_sae(workspace, SAE)
    write_weights(workspace.sae(SAE) / "sae.safetensors")
    target = workspace.build(SAE, "b1")
    target.parent.mkdir(parents=True)
    for source in (build, page_file_path(build)):
        (target.parent / source.name).write_bytes(source.read_bytes())
    folder = RunFolder(workspace.run("train-1"))
    folder.create("train", {"n_latents": 64})
    folder.append_progress({"step": 1})
    folder.checkpoints.mkdir()
    (folder.checkpoints / "train.pt").write_bytes(b"x" * 1000)
    with sessions() as db:
        labels.save(db, SAE, 3, "ada", text="braces")
        db.add(User(name="ada", is_admin=True))
        db.add(Run(id="train-1", kind="train", spec={"n_latents": 64}, state="cancelled"))
        db.commit()
    return workspace


def files_of(home: Path) -> dict[str, bytes]:
    return {path.relative_to(home).as_posix(): path.read_bytes() for folder in engine_backup.FOLDERS
            for path in (home / folder).rglob("*") if path.is_file()}


def run(*words: str) -> tuple[int, str]:
    """Run a command in this process, and return its exit code and output."""
    done = CliRunner().invoke(app, list(words))
    if isinstance(done.exception, UserError):  # `main` prints it
        return 2, f"error: {done.exception}"
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setenv("SAESCOPE_HOME", str(settings.home))
    if settings.database_url:
        monkeypatch.setenv("DATABASE_URL", settings.database_url)


@pytest.mark.parametrize("copy", [[], ["--copy"]])
def test_what_is_backed_up_comes_back(full: Workspace, settings: Settings, tmp_path: Path, copy: list[str]) -> None:
    if settings.database_url:
        pytest.skip("the restored database must be another one")
    before = files_of(full.root)
    code, said = run("backup", str(tmp_path / "copy"), *copy)
    assert code == 0, said
    assert ("hard links" in said) == (not copy)
    linked = (tmp_path / "copy/files/saes" / SAE / "sae.safetensors").stat().st_nlink
    assert linked == (1 if copy else 2)
    with open(full.run("train-1") / "progress.jsonl", "a", encoding="utf-8") as file:
        file.write("{}\n")  # the run goes on
    assert run("restore", str(tmp_path / "copy"), "--check")[0] == 0
    new = tmp_path / "new"
    code, said = run("restore", str(tmp_path / "copy"), "--home", str(new))
    assert code == 0, said
    assert files_of(new) == before
    assert not (new / RESTORING).exists()
    engine = make_engine(f"sqlite:///{new}/app.db")
    with make_session_factory(engine)() as db:
        assert [(row.latent, row.text) for row in db.scalars(select(Label))] == [(3, "braces")]
        assert list(db.scalars(select(User.name))) == ["ada"]
        assert [(row.id, row.state) for row in db.scalars(select(Run))] == [("train-1", "cancelled")]
    engine.dispose()
    assert run("doctor", "--home", str(new))[0] == 0


def test_a_postgres_database_comes_back_in_another(
    full: Workspace, settings: Settings, sessions: SessionFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if not settings.database_url:
        pytest.skip("this database is SQLite")
    presence = Presence(sessions)  # of a running server, which is not part of a backup
    presence.beat()
    with sessions() as db:
        db.add(Comment(sae_id=SAE, latent=3, author="ada", text="braces, too"))
        db.commit()
    assert run("backup", str(tmp_path / "copy"))[0] == 0
    assert "servers" not in (tmp_path / "copy" / "rows.jsonl").read_text()
    server, template = (request.getfixturevalue(name) for name in ("postgres_server", "postgres_template"))
    with postgres.database(server, template) as other:
        monkeypatch.setenv("DATABASE_URL", other)
        code, said = run("restore", str(tmp_path / "copy"), "--home", str(tmp_path / "new"))
        assert code == 0, said
        assert files_of(tmp_path / "new") == files_of(full.root)
        engine = make_engine(other)
        with make_session_factory(engine)() as db:
            assert [(row.latent, row.text) for row in db.scalars(select(Label))] == [(3, "braces")]
            db.add(Comment(sae_id=SAE, latent=3, author="ada", text="the next one"))  # gets a number of its own
            db.add(User(name="eve"))
            db.commit()
            assert list(db.scalars(select(Comment.text).order_by(Comment.id))) == ["braces, too", "the next one"]
        engine.dispose()
        assert "the database is not empty" in run(
            "restore", str(tmp_path / "copy"), "--home", str(tmp_path / "third"))[1]


def test_a_damaged_backup_is_refused_whole(full: Workspace, settings: Settings, tmp_path: Path) -> None:
    assert run("backup", str(tmp_path / "copy"), "--copy")[0] == 0
    weights = tmp_path / "copy/files/saes" / SAE / "sae.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, said = run("restore", str(tmp_path / "copy"), "--home", str(tmp_path / "new"))
    assert (code, "1 of " in said, "sae.safetensors" in said) == (2, True, True)
    assert not (tmp_path / "new" / "saes").exists()
    assert run("restore", str(tmp_path / "copy"), "--check")[0] == 2
    assert run("restore", str(tmp_path))[1] == f"error: src: {tmp_path} is not a backup: it has no usable manifest.json"


def test_a_manifest_cannot_name_files_elsewhere(full: Workspace, tmp_path: Path) -> None:
    assert run("backup", str(tmp_path / "copy"))[0] == 0
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((tmp_path / "copy/manifest.json").read_text())
    manifest["files"]["files/../../secret"] = engine_backup._entry(tmp_path / "secret")
    (tmp_path / "copy/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"1 of \d+ files are missing or damaged: files/\.\./\.\./secret"):
        engine_backup.check_backup(tmp_path / "copy")


def test_a_workspace_that_is_not_empty_is_left_alone(full: Workspace, tmp_path: Path) -> None:
    before = files_of(full.root)
    assert run("backup", str(tmp_path / "copy"))[0] == 0
    code, said = run("restore", str(tmp_path / "copy"))
    assert (code, "is not empty" in said) == (2, True)
    assert files_of(full.root) == before
    said = run("backup", str(tmp_path / "copy"))[1]
    assert said == f"error: dest: {tmp_path / 'copy'} exists already; name a new folder"
    assert "is inside the workspace" in run("backup", str(full.root / "copy"))[1]


def test_an_interrupted_restoration_is_completed(
    full: Workspace, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if settings.database_url:
        pytest.skip("the restored database must be another one")
    assert run("backup", str(tmp_path / "copy"))[0] == 0

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine_backup, "_restore_database", stop)
        CliRunner().invoke(app, ["restore", str(tmp_path / "copy"), "--home", str(tmp_path / "new")])
    code, said = run("serve", "--home", str(tmp_path / "new"))
    assert (code, "is only partly restored; run 'saescope restore' again" in said) == (2, True)
    assert run("restore", str(tmp_path / "copy"), "--home", str(tmp_path / "new"))[0] == 0
    assert files_of(tmp_path / "new") == files_of(full.root)


def test_rows_of_a_database_server(full: Workspace, engine: Engine, tmp_path: Path) -> None:
    """Write and read the form for a database server, with whatever database the test has."""
    rows = tmp_path / "rows"
    rows.mkdir()
    name = engine.dialect.name
    engine.dialect.name = "a server"
    try:
        assert engine_backup._copy_database(engine, rows) == ["rows.jsonl"]
    finally:
        engine.dialect.name = name
    other = make_engine(f"sqlite:///{tmp_path}/other.db")
    engine_backup._restore_database(rows, other, tmp_path)
    with make_session_factory(other)() as db:
        assert [(row.latent, row.text) for row in db.scalars(select(Label))] == [(3, "braces")]
    with pytest.raises(UserError, match="the database is not empty"):
        engine_backup._restore_database(rows, other, tmp_path)
    other.dispose()


def test_doctor_finds_each_kind_and_mends_what_is_safe(full: Workspace, sessions: SessionFactory) -> None:
    assert run("doctor") == (0, f"{full.root} is in order.\n")
    write_sae(full, "demo/torn")
    (full.sae("demo/torn") / "sae.json").write_text("{")
    write_sae(full, "demo/bare")
    page_file_path(full.build(SAE, "b1")).write_bytes(b"cut")
    orphan = full.builds("demo/gone")
    orphan.mkdir(parents=True)
    shutil.copy(full.build(SAE, "b1"), orphan / "b.duckdb")
    (full.builds(SAE) / "b0.duckdb").write_bytes(full.build(SAE, "b1").read_bytes()[:50_000])
    (full.builds(SAE) / "x.arrow").write_bytes(b"")
    stale = RunFolder(full.run("index-9"))
    stale.create("index", {"sae": SAE})
    write_json(stale.path / "status.json", {"state": "running", "heartbeat": time.time() - 1000, "pid": 2**22 + 1})
    torn = RunFolder(full.run("index-8"))
    torn.create("index", {"sae": SAE})
    (torn.path / "status.json").write_text('{"state": "ru')
    leftover = full.root / "corpora" / f".c.{HOST}-{2**22 + 1}.tmp"
    leftover.mkdir(parents=True)
    claim = full.sae("demo/claimed") / "claim.json"
    write_json(claim, {"run": "none", "folder": str(full.run("none"))})
    with sessions() as db:
        labels.save(db, "demo/old", 1, "ada", text="x")
        db.add(Run(id="train-7", kind="train", spec={}, state="running", ref=str(2**22 + 1), ref_mark="1.0"))
        db.commit()
    code, said = run("doctor", "--deep")
    assert code == 1
    for words in (
        "damaged: demo/torn: sae.json is not JSON", "missing: demo/bare: sae.safetensors is missing",
        "missing: demo/2-one, build b1: its page file b1.arrow is missing or damaged",
        "orphaned: demo/gone, build b: its SAE is not here", "damaged: demo/2-one, build b0: it has 50,000 of its ",
        "orphaned: builds/demo/2-one/x.arrow", "stale: run index-9: its status says running, but its process is gone",
        "damaged: run index-8: its status.json cannot be read", f"stale: corpora/{leftover.name}",
        "stale: saes/demo/claimed/claim.json", "orphaned: labels of demo/old", "stale: run train-7: the database calls",
        "missing: run train-7: its folder is gone", "saescope index --sae demo/2-one", "--fix does this",
    ):
        assert words in said, words
    assert run("doctor", "--fix")[0] == 1
    said = run("doctor")[1]
    for words in ("b1.arrow", "x.arrow", "index-8", leftover.name, "claim.json"):
        assert words not in said, "mended"
    assert "demo/torn" in said, "only a person can mend this"
    assert full.build(SAE, "b1").exists()
    assert orphan.exists()


def test_doctor_names_a_damaged_database(full: Workspace, settings: Settings) -> None:
    if settings.database_url:
        pytest.skip("this database is not a file of the workspace")
    for path in full.root.glob("app.db*"):
        path.unlink()
    (full.root / "app.db").write_bytes(b"nonsense" * 1000)
    code, said = run("doctor")
    assert (code, "damaged: the database: the database" in said) == (1, True)
    assert "Traceback" not in said


def test_gc_lists_first_and_deletes_only_what_nothing_needs(full: Workspace, sessions: SessionFactory) -> None:
    old = RunFolder(full.run("train-1"))
    old.write_status(Status(state="cancelled", finished=time.time() - 90 * 86_400))
    fresh = RunFolder(full.run("train-2"))
    fresh.create("train", {})
    fresh.checkpoints.mkdir()
    (fresh.checkpoints / "train.pt").write_bytes(b"x")
    fresh.write_status(Status(state="failed", finished=time.time()))
    newer = full.build(SAE, "b2")
    for suffix in (".duckdb", ".arrow"):
        newer.with_suffix(suffix).write_bytes(full.build(SAE, "b1").with_suffix(suffix).read_bytes())
    (full.builds(SAE) / "b3.duckdb").write_bytes(b"damaged")  # so b2 must stay
    corpus = full.corpus("unused")
    corpus.mkdir(parents=True)
    (corpus / "tokens.bin").write_bytes(b"x" * 100)
    os.utime(corpus, (1, 1))
    code, said = run("gc")
    assert code == 0
    for words in ("builds/demo/2-one/b1.duckdb: b2 replaces it", "corpora/unused: nothing refers",
                  "runs/train-1/ckpt: the run train-1 was cancelled more than 30 days ago", "can be freed"):
        assert words in said, words
    assert "train-2" not in said
    assert full.build(SAE, "b1").exists(), "only listed"
    assert run("gc", "--yes", "--only", "build")[0] == 0
    assert (full.build_ids(SAE), corpus.exists()) == (["b2", "b3"], True)
    assert not (full.builds(SAE) / "b1.arrow").exists()
    with sessions() as db:
        queue.resume(db, full, "train-1")  # queued again: its checkpoint is needed
    assert run("gc", "--yes")[0] == 0
    assert (old.checkpoints / "train.pt").exists()
    assert not corpus.exists()
    assert run("gc", "--only", "nonsense")[1] == (
        "error: only: 'nonsense' is not one of checkpoint, build, corpus, activations, staging")
