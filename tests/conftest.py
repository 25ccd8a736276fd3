"""The fixtures that all tests share: a separate workspace, the embedded language model, no network."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from sae.workspace.paths import Workspace

# Nearly all objects of a test process are modules and stay: scanning them took a fifth of the suite's time.
gc.set_threshold(10_000, 20, 5)

# No test has a deadline, so that a busy machine does not fail one.
settings.register_profile("saescope", deadline=None)
settings.load_profile("saescope")

if TYPE_CHECKING:
    from sae.lm.bridge import LanguageModel

# This must be set before any test imports torch: many small products gain nothing from many threads.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
# This must be set before anything imports Triton: without a GPU its kernels run in the interpreter.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Compiled modules are kept even if the shell forbids it: the suite starts a hundred processes that import them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A test that asks the hub by mistake fails at once.
os.environ["HF_HUB_OFFLINE"] = "1"
# The tests configure the program, and the shell must not; SAESCOPE_TEST_* configures the tests themselves.
for name in list(os.environ):
    ours = name.startswith("SAESCOPE_") and not name.startswith("SAESCOPE_TEST_")
    if ours or name in ("DATABASE_URL", "PORT", "HOST"):
        del os.environ[name]
os.environ["SAESCOPE_ALLOWED_HOSTS"] = "testserver,127.0.0.1,localhost"  # the first is Starlette's TestClient


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return an empty workspace for one test."""
    return Workspace(tmp_path / "data")


@pytest.fixture(scope="session")
def demo_lm() -> LanguageModel:
    """Load the embedded language model on the CPU once; tests must not change it."""
    import torch

    from sae.lm.bridge import LanguageModel

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return LanguageModel.load("demo", "cpu")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # otherwise DuckDB's binding reports leaked objects when the process ends


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests so that fast ones come first: the rules of the tree, then the units, then the browser.

    If several processes share the work, the browser's tests come first, because they take longest.
    """
    order = {"unit": 1, "browser": 0 if "PYTEST_XDIST_WORKER" in os.environ else 2}
    items.sort(key=lambda item: order.get(item.path.relative_to(Path(__file__).parent).parts[0], 0))


class ByFile(LoadScopeScheduling):
    """A scheduler that keeps a file's tests in one process, and all browser tests in one process.

    The server and the SAEs that tests share are then made once per process.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "browser" if nodeid.startswith("tests/browser/") else nodeid.split("::", 1)[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    """Return the scheduler by which several processes share the files, in their order."""
    config.option.loadscopereorder = False
    return ByFile(config, log)
