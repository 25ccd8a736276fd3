"""A norm's gain, bias and centring are measured on modules of known ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from sae.lm.norms import Norm, epsilon_of, measure_norm, normalized

D = 16
CPU = torch.device("cpu")


class OffsetNorm(nn.Module):
    """An RMSNorm that multiplies by 1 + w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(D))

    def forward(self, x: Tensor) -> Tensor:
        return normalized(x, centred=False, epsilon=1e-6) * (1 + self.weight)


def random_norm(kind: str) -> nn.Module:
    torch.manual_seed(1)
    if kind == "offset":
        return OffsetNorm()
    norm = nn.LayerNorm(D, eps=1e-6) if kind == "layer" else nn.RMSNorm(D, eps=1e-6)
    for parameter in norm.parameters():
        parameter.data.add_(0.3 * torch.randn(D))
    return norm


@pytest.mark.parametrize(("kind", "offset", "centred"), [("layer", 0, True), ("rms", 0, False), ("offset", 1, False)])
def test_the_gain_is_the_modules_to_the_last_bit(kind: str, offset: int, centred: bool) -> None:
    module = random_norm(kind)
    found = measure_norm(module, D, CPU)
    assert torch.equal(found.gain_D, offset + module.get_parameter("weight"))
    assert found.centred == centred
    bias_D = module.get_parameter("bias") if kind == "layer" else torch.zeros(D)
    assert torch.equal(found.bias_D, bias_D)


def test_a_norm_without_weight_has_gain_1() -> None:
    found = measure_norm(nn.LayerNorm(D, elementwise_affine=False), D, CPU)
    assert torch.equal(found.gain_D, torch.ones(D))
    assert found.centred


def test_a_module_that_changes_nothing_is_a_norm_of_gain_1_and_one_that_is_none_is_refused() -> None:
    identity = measure_norm(nn.Identity(), D, CPU)
    assert torch.equal(identity.gain_D, torch.ones(D))
    assert not identity.centred
    for module in (nn.GELU(), nn.Linear(D, D)):
        with pytest.raises(ValueError, match=f"{type(module).__name__} is no norm over its input"):
            measure_norm(module, D, CPU)


@pytest.mark.parametrize("kind", ["layer", "rms", "offset"])
@torch.no_grad()
def test_maps_through_a_norm_are_right_up_to_each_tokens_scale(kind: str) -> None:
    module = random_norm(kind)
    norm = measure_norm(module, D, CPU)
    x_TD, matrix_DM, matrix_wD = torch.randn(5, D), torch.randn(D, 7), torch.randn(7, D)

    def rms(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True) if norm.centred else x).square().mean(-1, keepdim=True).sqrt()

    found = x_TD @ norm.then(matrix_DM) / rms(x_TD)
    torch.testing.assert_close(found, (module(x_TD) - norm.bias_D) @ matrix_DM, rtol=1e-4, atol=1e-4)
    x_Tw = torch.randn(5, 7)
    found = x_Tw @ norm.after(matrix_wD) / rms(x_Tw @ matrix_wD)
    torch.testing.assert_close(found, module(x_Tw @ matrix_wD) - norm.bias_D, rtol=1e-4, atol=1e-4)


def test_normalized_rows_have_rms_1_and_no_mean_if_centred() -> None:
    x = torch.randn(3, D, dtype=torch.float16) + 5
    for centred in (False, True):
        out = normalized(x, centred)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out.square().mean(-1), torch.ones(3))
        assert (float(out.mean(-1).abs().max()) < 1e-3) == centred
    assert float(normalized(torch.ones(1, D), False, epsilon=3.0)[0, 0]) == 0.5


def test_epsilon_goes_by_several_names() -> None:
    assert epsilon_of(nn.LayerNorm(D, eps=1e-3)) == 1e-3
    assert epsilon_of(SimpleNamespace(variance_epsilon=2e-6, eps=1e-3)) == 2e-6
    assert epsilon_of(SimpleNamespace(eps=None)) == 1e-5


def test_a_norm_is_what_it_says() -> None:
    norm = Norm(torch.tensor([2.0, 3.0]), torch.zeros(2), centred=False)
    assert norm.after(torch.eye(2)).tolist() == norm.then(torch.eye(2)).tolist() == [[2.0, 0.0], [0.0, 3.0]]
