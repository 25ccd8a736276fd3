"""Tests of backups without the command: what goes into one, links, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.library.backup import check_backup, make_backup, restore_backup
from sae.errors import UserError
from sae.workspace.disk import RESTORING


@pytest.fixture
def home(engine: Engine, tmp_path: Path) -> Path:
    """The workspace of the database, with a file of each sort."""
    home = tmp_path / "data"
    for name in ("saes/demo/x/sae.json", "builds/demo/x/b.duckdb", "runs/r-1/log.txt", "runs/r-1/progress.jsonl",
                 "saes/demo/x/explanations.jsonl", "runs/r-1/cancel", "runs/r-1/.lock",
                 "corpora/.c.tmp/tokens.bin", "secrets/key"):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"of {name}")
    return home


def names(backup: Path) -> set[str]:
    return {path.relative_to(backup / "files").as_posix() for path in (backup / "files").rglob("*") if path.is_file()}


KEPT = {"saes/demo/x/sae.json", "builds/demo/x/b.duckdb", "runs/r-1/log.txt", "runs/r-1/progress.jsonl",
        "saes/demo/x/explanations.jsonl"}


def test_locks_hidden_files_and_secrets_stay_behind(engine: Engine, home: Path, tmp_path: Path) -> None:
    summary = make_backup(engine, home, tmp_path / "copy")
    assert names(tmp_path / "copy") == KEPT
    assert (summary.files, summary.linked) == (len(KEPT) + 1, 2), "files that grow are copied"
    entries = check_backup(tmp_path / "copy")
    assert sum(size for size, _ in entries.values()) == summary.n_bytes
    assert make_backup(engine, home, tmp_path / "plain", link=False).linked == 0


def test_a_backup_has_a_new_place_outside_of_the_workspace(engine: Engine, home: Path, tmp_path: Path) -> None:
    for target, words in ((tmp_path, "exists already"), (home / "copy", "is inside the workspace")):
        with pytest.raises(UserError, match=words) as caught:
            make_backup(engine, home, target)
        assert caught.value.field == "dest"
    assert not (home / "copy").exists()


@pytest.mark.parametrize("damage", ["changed", "shortened", "missing"])
def test_every_damage_is_found(engine: Engine, home: Path, tmp_path: Path, damage: str) -> None:
    make_backup(engine, home, tmp_path / "copy", link=False)
    path = tmp_path / "copy/files/saes/demo/x/sae.json"
    text = path.read_text()
    path.unlink()
    if damage != "missing":
        path.write_text(text[:-1] + ("!" if damage == "changed" else ""))
    with pytest.raises(UserError, match="1 of 6 files are missing or damaged: files/saes/demo/x/") as caught:
        check_backup(tmp_path / "copy")
    assert caught.value.field == "src"


@pytest.mark.parametrize(("manifest", "words"), [
    ("", "not a backup"), ("[]", "not a backup"), ('{"files": {}}', "not a backup"),
    ('{"format": 1, "files": {"a": [1]}}', "not a backup"), ('{"format": 2, "files": {}}', "newer version"),
    (json.dumps({"format": 1, "files": {"../other": [1, "x"]}}), "1 of 1 files")])
def test_what_is_no_backup_is_refused(tmp_path: Path, manifest: str, words: str) -> None:
    (tmp_path / "other").write_text("x")
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match=words):
        check_backup(folder)


def test_only_an_empty_or_half_restored_workspace_is_filled(engine: Engine, home: Path, tmp_path: Path) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("the restored database must be another one")
    make_backup(engine, home, tmp_path / "copy")
    with pytest.raises(UserError, match="is not empty") as caught:
        restore_backup(tmp_path / "copy", engine, home)
    assert caught.value.field == "home"
    half = tmp_path / "half"
    (half / "saes").mkdir(parents=True)
    (half / RESTORING).touch()
    engine.dispose()
    assert restore_backup(tmp_path / "copy", engine, half).files == 6
    assert {name for name in KEPT if (half / name).read_text() == f"of {name}"} == KEPT
    assert not (half / RESTORING).exists()
