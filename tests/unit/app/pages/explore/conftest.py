"""The synthetic builds, opened without a program."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sae.store.build import Build
from tests.builds import Synthetic
from tests.unit.app.conftest import BATCH, TOP


@pytest.fixture(scope="package")
def build(made: dict[str, Synthetic]) -> Iterator[Build]:
    build = Build.open(made[BATCH].path)
    yield build
    build.close()


@pytest.fixture(scope="package")
def topk(made: dict[str, Synthetic]) -> Iterator[Build]:
    build = Build.open(made[TOP].path)
    yield build
    build.close()
