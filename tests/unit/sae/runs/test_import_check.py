"""The check of an imported SAE on real activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae.errors import UserError
from sae.formats.foreign import Foreign, Weights
from sae.formats.readers.registry import convert
from sae.runs.import_check import MAX_FVU, Sample, measure, other_layers, other_readings, reconstructs, sample, table
from tests.toys import D, ToyModel, toy_corpus

HOOK = "blocks.1.hook_resid_post"


def exact(**changes: Any) -> Foreign:
    """Return an SAE that reconstructs exactly: an orthonormal basis and its negative; b_dec is large."""
    generator = torch.Generator().manual_seed(0)
    basis_DD = torch.linalg.qr(torch.randn(D, D, generator=generator)).Q
    W_LD = torch.cat([basis_DD, -basis_DD])
    weights = Weights(W_LD, torch.zeros(2 * D), W_LD.clone(), 50 * basis_DD[0], "relu")
    for name, value in changes.items():
        setattr(weights, name, value)
    return Foreign("toy", weights, model="toy", hook=HOOK, bos=True)


def activations(n: int = 200, width: int = D) -> Tensor:
    return 5 * torch.randn(n, width, generator=torch.Generator().manual_seed(1)) + 50


@pytest.mark.parametrize("normalize", ["none", "layer_norm"])
def test_the_measurements_agree_with_their_definitions(tiny_sae: Any, normalize: str) -> None:
    sae = tiny_sae("topk", normalize)
    x_ND = activations(100, sae.d_model) - 50
    got = measure(sae, Sample(x_ND, x_ND))
    dense_NL = sae.activation_of(x_ND, torch.arange(sae.n_latents))
    error = (x_ND - sae.reconstruct(x_ND)).square().sum()
    assert got["fvu"] == pytest.approx(float(error / (x_ND - x_ND.mean(0)).square().sum()), rel=1e-5)
    assert got["mean_activation"] == pytest.approx(float(dense_NL[dense_NL > 0].mean()), rel=1e-5)
    l0_N = (dense_NL > 0).sum(dim=1).double()
    assert (got["l0"], got["tokens"]) == (pytest.approx(float(l0_N.mean())), 100)
    assert got["l0_std"] == pytest.approx(float(l0_N.std(correction=0)), abs=1e-9)


def test_the_widths_of_the_sites_are_checked() -> None:
    sae, x_ND = convert(exact()), activations()
    with pytest.raises(UserError, match="has width 7, but the SAE has width 6") as raised:
        measure(sae, Sample(activations(5, 7), x_ND))
    assert raised.value.field == "hook"


def test_the_sample_is_of_text_tokens_without_bos() -> None:
    lm, corpus = ToyModel(), toy_corpus(30)
    whole = sample(lm, corpus, HOOK, "", 10_000).x_ND  # type: ignore[arg-type]
    tokens_CS = torch.from_numpy(corpus.tokens.astype(np.int64))
    real_CS = torch.arange(16)[None] < torch.from_numpy(corpus.length)[:, None]
    real_CS[:, 0] = False
    expected = lm.activations(tokens_CS, HOOK)[real_CS]
    assert sorted(whole.tolist()) == sorted(expected.tolist())
    reported: list[tuple[int, int]] = []
    some = sample(lm, corpus, HOOK, "", 50, lambda done, of: reported.append((done, of)))  # type: ignore[arg-type]
    assert torch.equal(some.x_ND, whole[:50])
    assert torch.equal(some.target_ND, some.x_ND)
    assert reported[-1] == (50, 50)


THRESHOLDED = {"architecture": "jumprelu", "threshold": torch.full((2 * D,), 3.0), "b_dec_D": torch.zeros(D)}


@pytest.mark.parametrize(("wrong", "offset", "option"), [
    ({"centred": False}, 50, "--subtract-b-dec yes"),
    ({**THRESHOLDED, "normalize": "constant_norm"}, 0, "--normalize none"),
    ({**THRESHOLDED, "input_scale": 0.1}, 0, "--input-scale 1")])
def test_the_right_reading_of_a_misread_sae_comes_first(wrong: dict[str, Any], offset: float, option: str) -> None:
    x_ND = activations() - 50 + offset
    at, foreign = Sample(x_ND, x_ND), exact(**wrong)
    assert not reconstructs(measure(convert(foreign), at))
    rows = table(foreign, at, ToyModel(), toy_corpus(10))  # type: ignore[arg-type]
    assert rows[0][1] == option
    assert rows[0][0] < 0.2 < MAX_FVU
    assert [round(fvu, 2) for fvu, _ in rows] == sorted(round(fvu, 2) for fvu, _ in rows)


def test_a_reading_changes_one_thing_and_leaves_the_sae_alone() -> None:
    foreign = exact()
    before = dict(vars(foreign.weights))
    for option, other in other_readings(foreign, Sample(activations(), activations())):
        changed = {name for name, value in vars(other.weights).items() if value is not before[name]}
        assert len(changed) == 1, option
    assert vars(foreign.weights) == before
    assert [option for option, _ in other_layers(foreign, 3)] == [
        "--hook blocks.0.hook_resid_post", "--hook blocks.2.hook_resid_post"]
    assert [option for option, _ in other_layers(foreign, 2)] == ["--hook blocks.0.hook_resid_post"]


def test_a_transcoder_is_not_read_as_an_sae() -> None:
    options = [option for option, _ in other_readings(exact(transcoder=True), Sample(activations(), activations()))]
    assert options
    assert all(option.startswith("--input-scale") for option in options)
