"""Tests of docker-compose.yml without an engine: each service's settings, extras and neighbours exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
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
WEB = ["web-a", "web-b"]


def test_the_profiles() -> None:
    assert {name: SERVICES[name].get("profiles", []) for name in SERVICES} == {
        "saescope": [], "saescope-gpu": ["gpu"], "saescope-postgres": ["postgres"], "db": ["postgres", "servers"],
        "web-a": ["servers"], "web-b": ["servers"], "proxy": ["servers"],
        "saescope-ray": ["ray"], "ray-head": ["ray"], "ray-worker": ["ray"]}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in (*OURS[1:], "proxy"):
        assert f"--profile {SERVICES[name]['profiles'][0]} up {name}" in readme
        assert f"--profile {SERVICES[name]['profiles'][0]} up {name}" in TEXT
    assert "$" not in str(FILE)  # every variable has a default


@pytest.mark.parametrize("name", OURS + WEB)
def test_a_services_settings_are_ours_and_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = SERVICES[name]["environment"]
    aliases = {str(field.validation_alias) for field in Settings.model_fields.values() if field.validation_alias}
    for key in asked.keys() - OF_OTHERS:
        assert key in aliases or key.removeprefix("SAESCOPE_").lower() in Settings.model_fields, key
    for key, value in asked.items():
        monkeypatch.setitem(os.environ, key, str(value))
    settings = Settings.load(host="0.0.0.0")
    assert (settings.launcher == "ray") == (name == "saescope-ray")
    assert bool(settings.database_url) == settings.several_servers == (name in ("saescope-postgres", *WEB))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_complete(name: str) -> None:
    service = SERVICES[name]
    for other in service.get("depends_on", {}):
        assert set(service["profiles"]) <= set(SERVICES[other]["profiles"])
        assert "healthcheck" in SERVICES[other] or ("build" in SERVICES[other] and "HEALTHCHECK" in DOCKERFILE)
    for volume in service["volumes"]:
        source = volume.partition(":")[0]
        assert (ROOT / source).is_file() if source.startswith("./") else source in FILE["volumes"]
    if name not in ("db", "proxy"):
        assert service["volumes"] == ["workspace:/data"]
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert service["build"]["args"].get("EXTRAS", "postgres") in extras


def test_ray_is_found_by_its_name() -> None:
    address = SERVICES["saescope-ray"]["environment"]["SAESCOPE_RAY_ADDRESS"]
    assert address == "http://ray-head:8265"  # the dashboard's usual port
    assert "--dashboard-host=0.0.0.0" in SERVICES["ray-head"]["command"]
    assert "ports" not in SERVICES["ray-head"]
    assert "--address=ray-head:6379" in SERVICES["ray-worker"]["command"]


def test_the_proxy_knows_both_servers_and_they_are_one_machine_each() -> None:
    config = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    port = re.findall(r"PORT=(\d+)", DOCKERFILE)[0]
    assert re.findall(r"^    server ([\w.-]+):(\d+)", config, re.M) == [(name, port) for name in WEB]
    assert "proxy_buffering off;" in config
    assert SERVICES["proxy"]["ports"] == ["8000:80"]
    assert f"listen {SERVICES['proxy']['ports'][0].partition(':')[2]};" in config
    for name in WEB:
        assert SERVICES[name]["hostname"] == name
        assert SERVICES[name]["ports"] == []
    one, other = ({key: value for key, value in SERVICES[name].items() if key != "hostname"} for name in WEB)
    assert one == other


def test_nginx_accepts_the_configuration(tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    config = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    for name in WEB:  # nginx resolves them when it starts
        config = config.replace(name, "127.0.0.1")
    config = config.replace("listen 80;", "listen 127.0.0.1:8080;")
    whole = tmp_path / "nginx.conf"
    places = " ".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    whole.write_text(f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {places} {config} }}")
    done = subprocess.run([nginx, "-t", "-c", str(whole), "-p", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
