"""What every test shares: a workspace of its own, the embedded language model, no network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from sae.workspace.paths import Workspace

# No test asserts a time: a busy machine must not fail one.
settings.register_profile("saescope", deadline=None)
settings.load_profile("saescope")

if TYPE_CHECKING:
    from sae.lm.bridge import LanguageModel

# Before torch is imported by any test: many small products gain nothing from many threads.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
# Before anything imports Triton, which looks at it once: without a GPU its kernels run under the interpreter.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")
# A test that asks the hub by mistake fails at once.
os.environ["HF_HUB_OFFLINE"] = "1"
# The program under test is configured by its tests, not by the shell they run in; SAESCOPE_TEST_* is for the tests.
for name in list(os.environ):
    ours = name.startswith("SAESCOPE_") and not name.startswith("SAESCOPE_TEST_")
    if ours or name in ("DATABASE_URL", "PORT", "HOST"):
        del os.environ[name]
os.environ["SAESCOPE_ALLOWED_HOSTS"] = "testserver,127.0.0.1,localhost"  # the first is Starlette's TestClient


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace that only this test sees."""
    return Workspace(tmp_path / "data")


@pytest.fixture(scope="session")
def demo_lm() -> LanguageModel:
    """The embedded language model on the CPU, loaded once; tests must leave it as they found it."""
    import torch

    from sae.lm.bridge import LanguageModel

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return LanguageModel.load("demo", "cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: the rules of the tree, then the units, then the browser.

    Where several processes share the work the browser's come first, since they are the longest piece.
    """
    order = {"unit": 1, "browser": 0 if "PYTEST_XDIST_WORKER" in os.environ else 2}
    items.sort(key=lambda item: order.get(item.path.relative_to(Path(__file__).parent).parts[0], 0))


class ByFile(LoadScopeScheduling):
    """A file's tests stay in one process, and the browser's files in one of all.

    The server and the SAEs that they share are made once a process.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "browser" if nodeid.startswith("tests/browser/") else nodeid.split("::", 1)[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    """Several processes share the work by file, in the order of the files."""
    config.option.loadscopereorder = False
    return ByFile(config, log)
