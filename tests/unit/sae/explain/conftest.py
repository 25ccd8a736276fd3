"""A synthetic build with an SAE's folder, and models that answer without a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sae.explain.budget import Budget
from sae.explain.chat import Answer, ChatModel
from sae.explain.request_cache import RequestCache
from sae.explain.templates import Messages
from sae.store.build import Build
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace
from tests.builds import Synthetic, make_build

SAE = "demo/2-res-batchtopk-4k"


class Said(ChatModel):
    """A model whose answers a function makes."""

    def __init__(self, folder: Path, brain: Callable[[Messages], str], **budget: Any) -> None:
        super().__init__("said", RequestCache(folder / "requests.jsonl"), Budget(**budget))
        self.brain = brain
        self.asked: list[Messages] = []

    def _answer(self, messages: Messages, max_tokens: int, logprobs: bool) -> Answer:
        self.asked.append(messages)
        return Answer(self.brain(messages), 100, 10)


@pytest.fixture(scope="package")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return make_build(tmp_path_factory.mktemp("build") / "index-1.duckdb", n_latents=60, n_contexts=96, sae_id=SAE)


@pytest.fixture(scope="package")
def build(synthetic: Synthetic) -> Iterator[Build]:
    opened = Build.open(synthetic.path)
    yield opened
    opened.close()


@pytest.fixture
def indexed(workspace: Workspace, synthetic: Synthetic) -> Workspace:
    """Make a workspace with the build and an SAE without weights."""
    target = workspace.build(SAE, synthetic.path.stem)
    target.parent.mkdir(parents=True)
    shutil.copy(synthetic.path, target)
    write_json(workspace.sae(SAE) / "sae.json", {
        "schema_version": 1, "id": SAE, "model": {"name": "demo", "id": "demo"}, "weights": "none",
        "site": {"layer": 2, "hook": "blocks.2.hook_resid_post"}, "architecture": "batch_topk", "n_latents": 60,
        "d_model": 256, "k": 12, "normalize": "layer_norm", "created": 1_700_000_000.0})
    return workspace
