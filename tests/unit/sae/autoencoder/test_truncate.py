"""A Matryoshka SAE cut at a prefix equals the whole SAE with its other latents removed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.autoencoder.artefact import Autoencoder
from sae.autoencoder.truncate import truncate
from sae.errors import UserError
from sae.evaluation.recovery import progressive_recovery
from tests.toys import D, toy_sae
from tests.unit.sae.planted import artefact_of, mixtures, trained_on


def matryoshka(seed: int = 0) -> Autoencoder:
    sae = toy_sae("matryoshka", seed=seed, threshold=1.0)
    sae.sparsity.threshold = 1.0
    return sae


@given(n_latents=st.integers(1, 24), seed=st.integers(0, 1000))
def test_it_is_the_whole_without_the_other_latents(n_latents: int, seed: int) -> None:
    whole = matryoshka(seed)
    part = truncate(whole, n_latents)
    x_ND = 3 * torch.randn(40, D, generator=torch.Generator().manual_seed(seed))
    codes = whole.codes(x_ND)
    kept = codes.where(codes.latent_N < n_latents)
    mine = part.codes(x_ND)
    assert mine.latent_N.tolist() == kept.latent_N.tolist()
    torch.testing.assert_close(mine.value_N, kept.value_N)
    torch.testing.assert_close(part.reconstruct(x_ND), whole.decode(kept, x_ND))
    assert (part.n_latents, whole.n_latents) == (n_latents, 24)


def test_it_can_be_saved_and_says_what_it_is(tmp_path: Path) -> None:
    part = truncate(matryoshka(), 6)
    part.save(tmp_path)
    again = Autoencoder.load(tmp_path)
    assert again.config["truncated_from"] == {"id": "toy/sae", "n_latents": 24}
    assert (again.n_latents, again.k, again.config["metrics"]) == (6, 3, {})
    assert again.sparsity.threshold == 1.0


def test_what_cannot_be_cut_is_refused() -> None:
    for sae, size, field in ((matryoshka(), 0, "n_latents"), (matryoshka(), 25, "n_latents"), (toy_sae(), 8, "sae")):
        with pytest.raises(UserError) as refused:
            truncate(sae, size)
        assert refused.value.field == field


def test_its_prefixes_reconstruct_better_than_those_of_batch_topk() -> None:
    x_ND, _ = mixtures(3000, 40, 32)
    fvu = {}
    for architecture in ("matryoshka", "batch_topk"):
        sae = artefact_of(*trained_on(x_ND, architecture, k=4, tokens=256 * 200))
        sae.config["architecture"] = "matryoshka"  # so that both can be cut
        fvu[architecture] = progressive_recovery(truncate(sae, 16), x_ND, [4])[4]
    assert fvu["matryoshka"] < fvu["batch_topk"] - 0.05
