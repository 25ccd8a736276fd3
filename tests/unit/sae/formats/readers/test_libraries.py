"""Our codes and reconstructions equal the library's own, for files that the library wrote.

The fixtures come from `tests/fixtures/make`; expected codes are in units of a unit-norm decoder.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.formats.readers.registry import load
from tests.unit.sae.formats.saes import SAES

CASES = sorted(path.relative_to(SAES).as_posix().removesuffix(".expected.safetensors")
               for path in SAES.rglob("*.expected.safetensors"))
REFUSED = {"sparsify/groupmax"}


def source(case: str) -> Path:
    if case == "gemma_scope/res":
        return SAES / "gemma_scope" / "gemma-scope-2b-pt-res"
    return next(path for path in (SAES / f"{case}.pt", SAES / case) if path.exists())


def dense(sae: Autoencoder, x_BD: Tensor) -> Tensor:
    codes = sae.codes(x_BD)
    out_BL = torch.zeros(len(x_BD), sae.n_latents)
    out_BL[codes.token_N, codes.latent_N] = codes.value_N
    return out_BL


@pytest.mark.parametrize("case", [case for case in CASES if case not in REFUSED])
def test_codes_and_reconstructions_are_the_librarys(case: str, tmp_path: Path) -> None:
    expected = load_file(SAES / f"{case}.expected.safetensors")
    sae = load(source(case))
    codes_BL, x_hat_BD = dense(sae, expected["x"]), sae.reconstruct(expected["x"])
    assert 0 < (codes_BL > 0).float().mean() < 1
    torch.testing.assert_close(codes_BL, expected["codes"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x_hat_BD, expected["x_hat"], rtol=1e-5, atol=1e-5)
    # Single latents and the artefact on disk agree with the codes.
    torch.testing.assert_close(sae.activation_of(expected["x"], torch.tensor([3, 7])), codes_BL[:, [3, 7]],
                               rtol=1e-5, atol=1e-5)
    sae.save(tmp_path)
    assert torch.equal(Autoencoder.load(tmp_path).reconstruct(expected["x"]), x_hat_BD)
