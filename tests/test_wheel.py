"""Tests of the wheel, which runs without the checkout: it contains the pages, assets and migrations."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
import urllib.request
import venv
from pathlib import Path

import pytest

from tests import ROOT


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a new environment with the wheel; its dependencies come from this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("saescope-*.whl")
    venv.create(folder / "env", with_pip=False)
    made = folder / "env" / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
    install = [sys.executable, "-m", "pip", "--python", str(made), "install", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--no-index", "--no-compile", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    # Python searches a folder named in a .pth file but does not read its .pth files, which would add the checkout.
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib"))
    return made


def test_the_wheel_serves_pages_without_the_checkout(python: Path, tmp_path: Path) -> None:
    names = {name: value for name, value in os.environ.items() if not name.startswith(("SAESCOPE_", "PYTHON"))}
    settings = {"SAESCOPE_HOME": str(tmp_path / "data"), "SAESCOPE_DEMO": "false", "SAESCOPE_PAGE_WORKERS": "0",
                "PORT": "0"}
    where = subprocess.run([python, "-c", "import app; print(app.__file__)"], capture_output=True, cwd=tmp_path,
                           env=names)
    assert str(ROOT).encode() not in where.stdout
    server = subprocess.Popen([python.with_name("saescope"), "serve"], cwd=tmp_path, env=names | settings, text=True,
                              stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        address = next(match[0] for line in server.stdout if (match := re.search(r"http://\S+", line)))
        with urllib.request.urlopen(address, timeout=30) as answer:  # tables were made by the migrations
            page = answer.read().decode()
        style = re.search(r'href="(/static/[^"]+\.css[^"]*)"', page)
        assert style is not None
        with urllib.request.urlopen(address + style[1], timeout=30) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(f"{address}/docs/first-hour", timeout=30) as answer:
            assert b"saescope demo" in answer.read()
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert server.returncode in (0, -signal.SIGTERM)  # uvicorn passes the signal on once all is closed
