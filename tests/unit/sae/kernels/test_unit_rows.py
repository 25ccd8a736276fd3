"""Operations row by row give the same as operations on the whole matrix."""

from __future__ import annotations

import pytest
import torch

from sae.kernels import unit_rows
from sae.kernels.unit_rows import normalize_, remove_parallel_


@pytest.mark.parametrize("block", [1, 21, 1 << 18])
def test_rows_in_any_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_rows, "_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    W_LD, grad_LD = torch.randn(11, 5, generator=generator), torch.randn(11, 5, generator=generator)
    expected_LD = W_LD / W_LD.norm(dim=1, keepdim=True)
    normalize_(W_LD)
    torch.testing.assert_close(W_LD, expected_LD)
    along_L1 = (grad_LD * W_LD).sum(dim=1, keepdim=True)
    expected_LD = grad_LD - along_L1 * W_LD
    remove_parallel_(grad_LD, W_LD)
    torch.testing.assert_close(grad_LD, expected_LD)
    assert (grad_LD * W_LD).sum(dim=1).abs().max() < 1e-6
