"""sparsify: the folder's name is the site, and what cannot be expressed is refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae.errors import UserError
from sae.formats.readers.registry import read
from tests.unit.sae.formats.saes import edited


@pytest.mark.parametrize(("case", "changes", "reason"), [
    ("sparsify/groupmax/layers.3", {}, "one latent of each group"),
    ("sparsify/topk/layers.3", {"signed": True}, "signed latents cannot be expressed"),
    ("sparsify/topk/layers.3", {"activation": "exp"}, "activation 'exp' cannot be expressed"),
    ("sparsify/topk/layers.3", {"k": -1}, "k is -1, but should be from 1 to"),
    ("sparsify/topk/layers.3", {"num_latents": 7}, "belongs to another SAE, or is transposed")])
def test_what_no_artefact_can_hold_is_refused_with_the_reason(
    tmp_path: Path, case: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as raised:
        read(edited(tmp_path, case, **changes))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "transcode", "hook", "out_hook"), [
    ("layers.3", False, "blocks.3.hook_resid_post", ""), ("layers.3.mlp", False, "blocks.3.hook_mlp_out", ""),
    ("layers.3.mlp", True, "blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out")])
def test_the_folders_name_is_the_site(tmp_path: Path, name: str, transcode: bool, hook: str, out_hook: str) -> None:
    folder = edited(tmp_path, "sparsify/topk/layers.3", transcode=transcode).rename(tmp_path / name)
    foreign = read(folder)
    assert (foreign.hook, foreign.out_hook, foreign.bos) == (hook, out_hook, False)
    assert foreign.weights.transcoder == transcode
    assert foreign.weights.centred != transcode
