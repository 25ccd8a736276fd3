"""Tests of the command's refusals, each before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sae.errors import UserError
from sae.reproduce import train
from sae.workspace.files import lock


def test_bad_settings_get_one_line_before_anything_is_loaded(
    command: Callable[..., tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "open_model", lambda *_: pytest.fail("loaded"))
    for values, says in (({"paper": "nope"}, "paper: 'nope' is not one of batchtopk, topk-scaling"),
                         ({"ks": "2,64"}, "ks: 64 latents per token, but a dictionary has only 16"),
                         ({"tokens": 1_000, "batch_tokens": 2_048}, "tokens: 1000 is less than one batch"),
                         ({"sizes": "a"}, "sizes"), ({"seeds": 0}, "seeds")):
        with pytest.raises(UserError, match=says):
            command(tmp_path / "out", **values)
    (tmp_path / "busy").mkdir()
    with lock(tmp_path / "busy" / "lock"), pytest.raises(UserError, match="another process works in"):
        command(tmp_path / "busy")
