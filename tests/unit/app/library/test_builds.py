"""Tests of the registry of open builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from app.library.builds import Builds
from sae.errors import DamagedFile, UserError
from sae.store.page_file import page_file_path
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


def test_an_older_build_takes_the_place_of_a_damaged_one(workspace: Workspace, file: Path) -> None:
    put(workspace, file, "b1", "b2", "b3")
    for name in ("b2", "b3"):
        os.truncate(workspace.build("demo/x", name), 100_000)
    builds = Builds(workspace)
    with builds.use("demo/x", "b3") as build:
        assert build.path.stem == "b1"
    shutil.copy(file, workspace.build("demo/x", "b3"))  # mended
    with builds.use("demo/x", "b3") as build:
        assert build.path.stem == "b3"
    builds.close()


def test_a_damaged_build_without_another_one_says_what_to_do(workspace: Workspace, file: Path) -> None:
    put(workspace, file, "b1")
    os.truncate(workspace.build("demo/x", "b1"), 100_000)
    builds = Builds(workspace)
    for _ in range(2):
        with pytest.raises(DamagedFile, match=r"b1.duckdb is damaged: it has 100,000 of its [\d,]+ bytes. Build it "
                           "again with: saescope index --sae demo/x"), builds.use("demo/x", "b1"):
            pass


def test_a_block_that_is_damaged_later_is_named_and_then_avoided(workspace: Workspace, file: Path) -> None:
    put(workspace, file, "b1", "b2")
    path = workspace.build("demo/x", "b2")
    builds = Builds(workspace)
    with builds.use("demo/x", "b2"):
        pass
    builds.close()
    content = path.read_bytes()
    path.write_bytes(content[:12_288] + b"\xff" * (len(content) - 12_288))  # all blocks; the headers stay
    builds = Builds(workspace)
    with builds.use("demo/x", "b2") as build:
        assert build.path.stem == "b1"
    builds.close()


def test_a_build_that_is_written_over_is_opened_again(workspace: Workspace, file: Path) -> None:
    put(workspace, file, "b1")
    builds = Builds(workspace)
    path = workspace.build("demo/x", "b1")
    with builds.use("demo/x", "b1") as first:
        assert first.latent(3) is not None
    os.truncate(page_file_path(path), 1000)
    with builds.use("demo/x", "b1") as again:
        assert again is not first
        assert again.latent(3) is not None, "the page file was made again"
    os.truncate(path, 100_000)
    with pytest.raises(DamagedFile, match="is damaged"), builds.use("demo/x", "b1"):
        pass
    builds.close()


def test_a_page_file_that_is_cut_while_it_is_read_does_not_end_the_process(workspace: Workspace, file: Path) -> None:
    """Read a mapped file that another process truncates: without a check the system sends SIGBUS."""
    put(workspace, file, "b1")
    path = workspace.build("demo/x", "b1")
    program = f"""
import os
from pathlib import Path
from sae.errors import DamagedFile
from sae.store.build import Build
build = Build.open(Path({str(path)!r}))
os.truncate({str(page_file_path(path))!r}, 0)
for read in (lambda: build.latent(3), lambda: build.windows(3), lambda: build.snippets([3], 5)):
    try:
        read()
    except DamagedFile as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.returncode
    assert done.stdout.count("b1.arrow was changed on the disk while it was being read") == 3
