"""Tests of the settings: their names in the environment, and the messages about wrong values."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import Settings
from sae.errors import UserError


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOST", "PORT", "DATABASE_URL", "SAESCOPE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    settings = Settings.load()
    assert (settings.host, settings.port, settings.home) == ("127.0.0.1", 8000, tmp_path / "data")
    assert settings.url == f"sqlite:///{tmp_path / 'data' / 'app.db'}"
    assert settings.max_runs == 1


def test_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "HOST": "0.0.0.0", "PORT": "9000", "SAESCOPE_HOME": str(tmp_path), "DATABASE_URL": "postgresql://db/x",
        "SAESCOPE_DEMO": "0", "SAESCOPE_TRUSTED_ORIGINS": "https://A.example/, https://b.example",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert (settings.host, settings.port, settings.home, settings.demo) == ("0.0.0.0", 9000, tmp_path, False)
    assert settings.url == "postgresql://db/x"
    assert settings.origins == {"https://a.example", "https://b.example"}
    assert Settings.load(port=1).port == 1


@pytest.mark.parametrize(("variables", "page_workers"), [
    ({}, -1), ({"SAESCOPE_PAGE_WORKERS": "3"}, 3), ({"SAESCOPE_READERS": "2"}, 2),
    ({"SAESCOPE_READERS": "2", "SAESCOPE_PAGE_WORKERS": "3"}, 3),
])
def test_page_workers_have_an_old_name(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], page_workers: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert settings.page_workers == page_workers
    assert Settings.load(page_workers=0).n_page_workers == 0
    assert Settings.model_validate_json(settings.model_dump_json(by_alias=False)) == settings


def test_secrets_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    (tmp_path / "DATABASE_URL").write_text("postgresql://user:secret@db/x\n")
    monkeypatch.setenv("SAESCOPE_SECRETS_DIR", str(tmp_path))
    assert Settings.load().url == "postgresql://user:secret@db/x"


@pytest.mark.parametrize(("name", "value"), [
    ("PORT", "many"), ("PORT", "70000"), ("SAESCOPE_MAX_RUNS", "0"), ("SAESCOPE_TRUSTED_PROXIES", "proxy.example"),
                                            ("SAESCOPE_PAGE_WORKERS", "many")])
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{name}: "):
        Settings.load()


def test_every_setting_is_explained() -> None:
    assert all(field.description for field in Settings.model_fields.values())
