"""Sites, heads and layers that do not go together, and the hooks and names of those that do."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sae.errors import UserError
from sae.lm.sites import parse_site, site_hook, split_head
from sae.runs.names import default_name
from sae.specs.registry import ActivationsSpec, SweepSpec, TrainSpec


@pytest.mark.parametrize(("kind", "values", "said"), [
    (TrainSpec, {"site": "hook_resid_post", "head": 1}, "head: hook_resid_post has no heads"),
    (TrainSpec, {"site": "hook_embed"}, "layer: hook_embed comes before all blocks; give layer 0"),
    (TrainSpec, {"site": "hook_mlp_out", "out_site": "attn.hook_z"}, "out_site: a block does not compute attn.hook_z"),
    (ActivationsSpec, {"site": "hook_mlp_out", "head": 0}, "head: hook_mlp_out has no heads"),
    (ActivationsSpec, {"site": "hook_embed", "layers": "0,1"}, "layers: hook_embed comes before all blocks")])
def test_what_does_not_go_together_is_named(kind: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        kind(**values)
    assert said in str(error.value)


def test_hooks_and_names() -> None:
    head = TrainSpec(site="attn.hook_k", head=3, layer=1)
    assert head.hook == "blocks.1.attn.hook_k:h3"
    assert default_name(head).startswith("1-k_h3-")
    assert TrainSpec(site="hook_embed", layer=0).hook == "hook_embed"
    assert {member.hook for member in SweepSpec(site="attn.hook_z", head=0, layers="1,2").members()} == {
        "blocks.1.attn.hook_z:h0", "blocks.2.attn.hook_z:h0"}
    assert ActivationsSpec(site="attn.hook_v", head=2, out_site="hook_attn_out").hooks == [
        "blocks.2.attn.hook_v:h2", "blocks.2.hook_attn_out"]
    for hook, parts in (("hook_embed", (0, "hook_embed")), ("blocks.3.attn.hook_z:h5", (3, "attn.hook_z"))):
        assert parse_site(hook) == parts
        assert site_hook(*parts, split_head(hook)[1]) == hook
    for wrong in ("blocks.3.hook_mlp_out:h1", "hook_embed:h0", "blocks.1.hook_embed", "embed"):
        with pytest.raises(UserError, match=r"^hook: "):
            parse_site(wrong)
