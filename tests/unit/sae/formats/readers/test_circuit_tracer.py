"""circuit-tracer's transcoder sets against their formula: act(x · W_encᵀ + b_enc) · W_dec + b_dec + x · W_skipᵀ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae.errors import UserError
from sae.formats.readers.registry import load, read

D, L, B = 12, 40, 64
CONFIG = """model_name: google/gemma-2-2b
model_kind: transcoder_set
feature_input_hook: ln2.hook_normalized
feature_output_hook: hook_mlp_out
"""


def weights(**more: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    t = {name: torch.randn(shape, generator=generator) for name, shape in (
        ("W_enc", (L, D)), ("b_enc", (L,)), ("W_dec", (L, D)), ("b_dec", (D,)))}
    return {**t, **more}


def a_set(folder: Path, tensors: dict[str, Tensor], config: str = CONFIG, layer: int = 3) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(config)
    path = folder / f"layer_{layer}.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture
def x_BD() -> Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rule", ["relu", "skip", "jumprelu", "one threshold", "topk"])
@pytest.mark.parametrize("transposed", [False, True])
def test_each_rule_in_both_orientations(tmp_path: Path, x_BD: Tensor, rule: str, transposed: bool) -> None:
    more = {"relu": {}, "skip": {"W_skip": torch.randn(D, D) / 4}, "topk": {"k": torch.tensor(5)},
            "jumprelu": {"activation_function.threshold": torch.linspace(0, 2, L)},
            "one threshold": {"activation_function.threshold": torch.tensor(0.7)}}[rule]
    t = weights(**more)
    pre = x_BD @ t["W_enc"].T + t["b_enc"]
    f = pre.relu()
    if rule in ("jumprelu", "one threshold"):
        f = f * (pre > more["activation_function.threshold"])
    if rule == "topk":
        f = f * (pre >= pre.topk(5).values[:, -1:])
    expected = f @ t["W_dec"] + t["b_dec"] + (x_BD @ t["W_skip"].T if rule == "skip" else 0)
    path = a_set(tmp_path / "set", {**t, "W_dec": t["W_dec"].T.contiguous()} if transposed else t)
    for source in (path, path.parent):
        torch.testing.assert_close(load(source).reconstruct(x_BD), expected, rtol=1e-4, atol=1e-4)
    foreign = read(path)
    assert foreign.model == "google/gemma-2-2b"
    assert (foreign.hook, foreign.out_hook) == ("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out")
    assert set(foreign.asks) == {"bos"}


def test_a_file_of_many_has_to_be_named(tmp_path: Path) -> None:
    path = a_set(tmp_path / "set", weights())
    save_file(weights(), path.with_name("layer_4.safetensors"))
    with pytest.raises(UserError, match=r"holds 2 SAEs; name one of them: layer_3.safetensors, layer_4.safetensors"):
        read(path.parent)


@pytest.mark.parametrize(("config", "says"), [
    (CONFIG.replace("transcoder_set", "cross_layer_transcoder"), "writes to several layers"),
    (CONFIG + "activation: topk\n", "k is None, but should be from 1 to 40; give --k"),
    (CONFIG + "activation: gelu\n", "activation 'gelu' is not supported"),
    ("- a list", "config.yaml: is not a YAML mapping"), ("a: [", "cannot be read as YAML")])
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, config: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(a_set(tmp_path / "set", weights(), config))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("hook", "given", "hooks"), [
    ("hook_in_the_clouds", {}, ("", "blocks.3.hook_mlp_out")),
    ("mlp.hook_in", {}, ("blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out"))])
def test_an_unknown_site_is_named(tmp_path: Path, hook: str, given: dict[str, Any], hooks: tuple[str, str]) -> None:
    foreign = read(a_set(tmp_path / "set", weights(), CONFIG.replace("ln2.hook_normalized", hook)), given)
    assert (foreign.hook, foreign.out_hook) == hooks
    if not hooks[0]:
        assert "the file names 'blocks.3.hook_in_the_clouds', which is no site here" in foreign.asks["hook"]
