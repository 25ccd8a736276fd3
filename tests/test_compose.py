"""Tests of docker-compose.yml without an engine: each service's settings, extras and neighbours exist."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
OF_OTHERS = {"HF_HUB_OFFLINE"}  # variables that libraries read


def resolved(value: Any) -> Any:
    """Return the file's content with every `${NAME:-default}` replaced by its default."""
    if isinstance(value, dict):
        return {key: resolved(one) for key, one in value.items()}
    if isinstance(value, list):
        return [resolved(one) for one in value]
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) if isinstance(value, str) else value


FILE = resolved(yaml.safe_load(TEXT))
SERVICES: dict[str, Any] = FILE["services"]
OURS = [name for name in SERVICES if name.startswith("saescope")]


def test_the_profiles() -> None:
    assert {name: SERVICES[name].get("profiles", []) for name in SERVICES} == {
        "saescope": [], "saescope-gpu": ["gpu"], "saescope-postgres": ["postgres"], "db": ["postgres"],
        "saescope-ray": ["ray"], "ray-head": ["ray"], "ray-worker": ["ray"]}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in OURS[1:]:
        assert f"--profile {SERVICES[name]['profiles'][0]} up {name}" in readme
        assert f"--profile {SERVICES[name]['profiles'][0]} up {name}" in TEXT
    assert "$" not in str(FILE)  # every variable has a default


@pytest.mark.parametrize("name", OURS)
def test_a_services_settings_are_ours_and_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = SERVICES[name]["environment"]
    aliases = {str(field.validation_alias) for field in Settings.model_fields.values() if field.validation_alias}
    for key in asked.keys() - OF_OTHERS:
        assert key in aliases or key.removeprefix("SAESCOPE_").lower() in Settings.model_fields, key
    for key, value in asked.items():
        monkeypatch.setitem(os.environ, key, str(value))
    settings = Settings.load(host="0.0.0.0")
    assert (settings.launcher == "ray") == (name == "saescope-ray")
    assert bool(settings.database_url) == (name == "saescope-postgres")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_complete(name: str) -> None:
    service = SERVICES[name]
    for other in service.get("depends_on", {}):
        assert SERVICES[other]["profiles"] == service["profiles"]
        assert "healthcheck" in SERVICES[other]
    for volume in service["volumes"]:
        assert volume.partition(":")[0] in FILE["volumes"]
    if name != "db":
        assert service["volumes"] == ["workspace:/data"]
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert service["build"]["args"].get("EXTRAS", "postgres") in extras


def test_ray_is_found_by_its_name() -> None:
    address = SERVICES["saescope-ray"]["environment"]["SAESCOPE_RAY_ADDRESS"]
    assert address == "http://ray-head:8265"  # the dashboard's usual port
    assert "--dashboard-host=0.0.0.0" in SERVICES["ray-head"]["command"]
    assert "ports" not in SERVICES["ray-head"]
    assert "--address=ray-head:6379" in SERVICES["ray-worker"]["command"]
