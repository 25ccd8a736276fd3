"""Tensor files without a config: recognised by names and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sae.errors import UserError
from sae.formats.readers.registry import read
from tests.unit.sae.formats.readers.tensors import D, L, random


@pytest.mark.parametrize(("tensors", "given", "architecture", "asks"), [
    (random(encoder__weight=(L, D), encoder__bias=(L,), decoder__weight=(D, L), bias=(D,)), {}, "relu", set()),
    (random(encoder__weight=(L, D), encoder__bias=(L,), decoder__weight=(D, L), decoder__bias=(D,)), {}, "relu", set()),
    (random(encoder_linear__weight=(L, D), encoder_linear__bias=(L,), decoder_linear__weight=(D, L),
            decoder_linear__bias=(D,)), {}, "relu", set()),
    (random(encoder__weight=(L, D), encoder__bias=(L,), W_dec=(L, D), b_dec=(D,)), {}, "topk", {"k"}),
    (random(encoder__weight=(L, D), encoder__bias=(L,), W_dec=(L, D), b_dec=(D,)), {"k": 3}, "topk", set()),
    (random(W_enc=(D, L), W_dec=(L, D), b_enc=(L,), b_dec=(D,), threshold=(L,)), {"subtract_b_dec": "no"}, "jumprelu",
     set()),
    (random(W_enc=(L, D), W_dec=(D, L), b_enc=(L,), b_dec=(D,)), {}, "relu", {"architecture", "subtract_b_dec"}),
    (random(W_enc=(L, D), W_dec=(D, L), b_enc=(L,), b_dec=(D,)), {"architecture": "topk"}, "topk",
     {"k", "subtract_b_dec"}),
    (random(W_enc=(D, L), W_dec=(L, D), b_gate=(L,), b_mag=(L,), r_mag=(L,), b_dec=(D,)), {}, "gated",
     {"subtract_b_dec"}),
    (random(W_enc=(L, D), W_dec=(D, L), b_enc=(L,), b_dec=(D,), W_skip=(D, D)), {"architecture": "relu"}, "relu",
     {"out_hook"}),
    ({**random(encoder__weight=(L, D), encoder__bias=(L,), decoder__weight=(D, L), b_dec=(D,)),
      "k": torch.tensor(4.0), "threshold": torch.tensor(0.5)}, {}, "topk", {"architecture"}),
    ({**random(encoder__weight=(L, D), encoder__bias=(L,), decoder__weight=(D, L), b_dec=(D,)),
      "k": torch.tensor(4.0), "threshold": torch.tensor(0.5)}, {"architecture": "batch_topk"}, "batch_topk", set()),
    (random(module__encoder__weight=(L, D), module__encoder__bias=(L,), module__decoder__weight=(D, L),
            module__bias=(D,)), {}, "relu", set()),
])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_bare_tensors_are_known_by_name_and_shape(
    tmp_path: Path, tensors: dict[str, torch.Tensor], given: dict[str, Any], architecture: str, asks: set[str],
    suffix: str,
) -> None:
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors, path)
    foreign = read(path, given)
    assert foreign.weights.architecture == architecture
    assert set(foreign.asks) == {"model", "hook", "bos"} | asks
    assert foreign.weights.W_enc_LD.shape == (L, D)
    assert foreign.weights.W_dec_LD.shape == (L, D)


def test_a_wrappers_prefix_is_removed_only_if_all_names_have_it(tmp_path: Path) -> None:
    tensors = random(encoder__weight=(L, D), encoder__bias=(L,), decoder__weight=(D, L), bias=(D,))
    for prefix in ("module.", "_orig_mod.", "module._orig_mod."):
        torch.save({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "x.pt")
        foreign = read(tmp_path / "x.pt")
        torch.testing.assert_close(foreign.weights.W_dec_LD, tensors["decoder.weight"].T)
    torch.save({"module." + name if name == "bias" else name: t for name, t in tensors.items()}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="belong to no known kind"):
        read(tmp_path / "x.pt")


@pytest.mark.parametrize("transposed", ["", "W_enc", "W_dec"])
def test_matrices_are_oriented_by_their_shapes(tmp_path: Path, transposed: str) -> None:
    tensors = random(W_enc=(D, L), W_dec=(L, D), b_enc=(L,), b_dec=(D,))
    stored = {name: tensor.T.contiguous() if name == transposed else tensor for name, tensor in tensors.items()}
    save_file(stored, tmp_path / "x.safetensors")
    weights = read(tmp_path / "x.safetensors", {"architecture": "relu"}).weights
    assert torch.equal(weights.W_enc_LD, tensors["W_enc"].T)
    assert torch.equal(weights.W_dec_LD, tensors["W_dec"])


@pytest.mark.parametrize(("given", "reason"), [
    ({"architecture": "topk", "k": L + 1}, "more than the file's 40 latents"),
    ({"architecture": "jumprelu"}, "needs a threshold, which the file does not have")])
def test_settings_that_the_file_does_not_allow_are_refused(
    tmp_path: Path, given: dict[str, Any], reason: str
) -> None:
    save_file(random(W_enc=(D, L), W_dec=(L, D), b_enc=(L,), b_dec=(D,)), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=reason):
        read(tmp_path / "x.safetensors", given)


def test_thresholds_stored_as_logarithms_are_raised(tmp_path: Path) -> None:
    tensors = random(W_enc=(D, L), W_dec=(L, D), b_enc=(L,), b_dec=(D,), log_threshold=(L,))
    save_file(tensors, tmp_path / "x.safetensors")
    weights = read(tmp_path / "x.safetensors").weights
    assert weights.architecture == "jumprelu"
    torch.testing.assert_close(weights.threshold, tensors["log_threshold"].exp())
