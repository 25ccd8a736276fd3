"""The command on the embedded model with a tiny text and a tiny grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sae.reproduce import train
from sae.reproduce.run import reproduce
from sae.workspace.paths import Workspace

if TYPE_CHECKING:
    from sae.lm.bridge import LanguageModel

TINY: dict[str, Any] = {"tokens": 1_536, "batch_tokens": 128, "sizes": "16,32", "size": 32, "ks": "2,4", "k": 2,
                        "eval_tokens": 1_000, "ce_tokens": 256, "context_length": 32}


@pytest.fixture
def command(
    workspace: Workspace, demo_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Path, Path]]:
    """Return the command for a small text, with the shared language model."""
    monkeypatch.setattr(train, "open_model", lambda *_: demo_lm)
    text = tmp_path / "text"
    text.mkdir()
    for i in range(12):
        (text / f"{i}.py").write_text("\n".join(f"def f{j}(x):\n    return x * {i * j} + {j}\n" for j in range(60)))

    def call(out: Path, paper: str = "batchtopk", say: Callable[[str], None] = print, **values: Any
             ) -> tuple[Path, Path]:
        return reproduce(paper, {**TINY, "text": str(text), **values}, workspace, out, say, "saescope reproduce",
                         quick=True)

    return call
