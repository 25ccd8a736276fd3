"""Every architecture, when trained, finds planted features, and its artefact equals what was trained."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.autoencoder.artefact import Autoencoder
from sae.kernels.codes import Codes
from sae.specs.training import TrainSpec
from sae.training.loop import Trained, learning_rate
from sae.training.trainer import SAETrainer
from tests.unit.sae.planted import ARCHITECTURES, artefact_of, mixtures, trained_on

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
X_ND, FEATURES_GD = mixtures(6000, 40, 32)


@cache
def trained(architecture: str, normalize: str = "none") -> tuple[Trained, TrainSpec]:
    return trained_on(X_ND, architecture, normalize=normalize)


def dense(codes: Codes) -> Tensor:
    out_BL = torch.zeros(codes.n_tokens, codes.n_latents)
    out_BL[codes.token_N, codes.latent_N] = codes.value_N
    return out_BL


@every_architecture
def test_planted_features_are_found(architecture: str) -> None:
    result, spec = trained(architecture)
    cosine_LG = result.trainer.tensors()["W_dec"] @ FEATURES_GD.T
    assert float(cosine_LG.max(dim=0).values.mean()) >= 0.9
    codes = artefact_of(result, spec).codes(X_ND)
    l0 = len(codes.value_N) / len(X_ND)
    if architecture in ("relu", "gated"):  # controlled by a coefficient, not by k
        assert 1 < l0 < 6
    else:
        # JumpReLU's k is an aim, weighed against FVU; TopK keeps fewer where fewer are positive (an eighth of the
        # tokens have no feature at all).
        assert l0 == pytest.approx(2, rel=0.15)


@every_architecture
def test_saved_and_loaded_it_gives_the_same_outputs(architecture: str, tmp_path: Path) -> None:
    sae = artefact_of(*trained(architecture))
    sae.save(tmp_path)
    again = Autoencoder.load(tmp_path)
    assert set(again.tensors()) == set(sae.tensors())
    assert torch.equal(dense(again.codes(X_ND[:500])), dense(sae.codes(X_ND[:500])))
    assert torch.equal(again.reconstruct(X_ND[:500]), sae.reconstruct(X_ND[:500]))


@every_architecture
def test_the_dataset_scale_is_folded_without_changing_outputs(architecture: str) -> None:
    """Compare the artefact on raw activations with the trained weights on scaled ones, divided by the scale."""
    result, spec = trained(architecture, "dataset")
    s = result.normalizer.factor
    assert not 0.9 < s < 1.1
    folded = artefact_of(result, spec)
    unfolded = Autoencoder(result.trainer.tensors(), folded.config | {"normalize": "none"})
    if unfolded.sparsity.has_threshold:
        unfolded.sparsity.threshold = result.trainer.sparsity.threshold
    x_ND = X_ND[:1000]
    torch.testing.assert_close(dense(folded.codes(x_ND)), dense(unfolded.codes(x_ND * s)) / s, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(folded.reconstruct(x_ND), unfolded.reconstruct(x_ND * s) / s, rtol=1e-5,
                               atol=1e-5 * float(x_ND.abs().max()))


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name not in ("batch_topk", "matryoshka")])
def test_inference_is_the_rule_of_training(architecture: str) -> None:
    """Compare the artefact's codes with a training step on the same weights, for rules without a θ."""
    result, spec = trained(architecture)
    result.trainer.product_dtype = torch.float32
    in_training = result.trainer.gradients(X_ND[:300]).codes
    assert torch.equal(dense(in_training), dense(artefact_of(result, spec).codes(X_ND[:300])))


@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "matryoshka"])
def test_a_transcoder_finds_what_each_feature_is_turned_into(architecture: str) -> None:
    """Map features of 24 dimensions to features of 32 dimensions with the same strengths."""
    generator = torch.Generator().manual_seed(0)
    read_GD, written_GD = (torch.nn.functional.normalize(torch.randn(40, width, generator=generator), dim=1)
                           for width in (24, 32))
    strength_NG = (1 + torch.rand(6000, 40, generator=generator)) * (torch.rand(6000, 40, generator=generator) < 0.05)
    y_ND, target_ND = 4 * strength_NG @ read_GD + 0.5, 4 * strength_NG @ written_GD - 0.3
    spec = TrainSpec(architecture=architecture, n_latents=64, k=2, tokens=256 * 350, batch_tokens=256, k_aux=16,
                     dead_after_tokens=256 * 40, prefixes="1/2, 1")
    trainer = SAETrainer(spec, DataStatistics.measure(y_ND, target_ND), torch.device("cpu"))
    first = trainer.gradients(y_ND[:256], target_ND[:256]).loss
    for step in range(350):
        rows = torch.randint(0, 6000, (256,), generator=generator)
        result = trainer.step(y_ND[rows], learning_rate(step, 350, 5e-3, 50, 0.3), target_ND[rows])
    assert float((trainer.tensors()["W_dec"] @ written_GD.T).max(dim=0).values.mean()) >= 0.9
    assert result.loss < 0.6 * first
