"""Tests of the registry of open builds."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from app.library.builds import Builds
from sae.errors import UserError
from sae.workspace.paths import Workspace
from tests.builds import make_build


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_build(tmp_path_factory.mktemp("one") / "b.duckdb", n_latents=20, n_contexts=8).path


def put(workspace: Workspace, file: Path, *names: str) -> None:
    for name in names:
        target = workspace.build("demo/x", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


def opened(workspace: Workspace) -> set[str]:
    """Return the builds whose files this process has open or mapped, as the operating system says."""
    process, folder = psutil.Process(), str(workspace.build("demo/x", "b").parent)
    files = [*(file.path for file in process.open_files()), *(part.path for part in process.memory_maps())]
    return {Path(file).stem for file in files if file.startswith(folder)}


def test_a_build_is_opened_once(workspace: Workspace, file: Path) -> None:
    put(workspace, file, "b1")
    builds = Builds(workspace)
    with builds.use("demo/x", "b1") as one, builds.use("demo/x", "b1") as other:
        assert one is other
    with builds.use("demo/x", "b1") as again:
        assert again is one
    builds.close()


def test_the_one_used_longest_ago_is_closed_when_nobody_reads_it(workspace: Workspace, file: Path) -> None:
    put(workspace, file, "b1", "b2", "b3")
    builds = Builds(workspace, capacity=1)
    with builds.use("demo/x", "b1") as one:
        with builds.use("demo/x", "b2"), builds.use("demo/x", "b3"):
            assert opened(workspace) == {"b1", "b2", "b3"}, "all in use"
        assert opened(workspace) == {"b1"}
        assert one.latent(0) is not None, "still in use, so still open"
    with builds.use("demo/x", "b2"):
        pass
    assert opened(workspace) == {"b2"}
    builds.close()
    assert opened(workspace) == set()


def test_many_readers_past_capacity(workspace: Workspace, file: Path) -> None:
    put(workspace, file, *(f"b{i}" for i in range(5)))
    builds = Builds(workspace, capacity=2)

    def ask(i: int) -> int:
        with builds.use("demo/x", f"b{i % 5}") as build:
            latent = build.latent(i % 20)
            assert latent is not None
            return latent.latent

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == [i % 20 for i in range(200)]
    builds.close()


def test_a_build_that_is_gone(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="no longer exists"), Builds(workspace).use("demo/x", "b9"):
        pass


def test_a_deleted_build_is_closed_as_soon_as_nobody_reads_it(workspace: Workspace, file: Path) -> None:
    put(workspace, file, "b1", "b2")
    builds = Builds(workspace)
    with builds.use("demo/x", "b1") as one:
        workspace.build("demo/x", "b1").unlink()
        builds.forget("demo/x")
        assert one.latent(0) is not None, "still in use, so still open"
    assert opened(workspace) == set()
    with builds.use("demo/x", "b2"):
        pass
    workspace.build("demo/x", "b2").unlink()  # by another process
    put(workspace, file, "b3")
    with builds.use("demo/x", "b3"):
        pass
    assert opened(workspace) == {"b3"}
    builds.close()
