"""Tests of a reproduction's settings and of the trainings that they make."""

from __future__ import annotations

import pytest

from sae.errors import UserError
from sae.reproduce.setup import Cell, Setup, checked


def test_a_cell_becomes_a_training_with_the_shared_settings() -> None:
    setup = Setup(tokens=4_096, batch_tokens=512, layer=1, context_length=64)
    spec = setup.spec(Cell(architecture="topk", n_latents=256, k=8, multi_topk=True, detailed=True), 3)
    assert (spec.architecture, spec.n_latents, spec.k, spec.multi_topk, spec.seed) == ("topk", 256, 8, True, 3)
    assert spec.hook == "blocks.1.hook_resid_post"
    assert (spec.tokens, spec.batch_tokens, spec.context_length) == (4_096, 512, 64)


def test_a_contradiction_is_one_line_that_names_the_setting() -> None:
    with pytest.raises(UserError, match="ks: 64 latents per token, but a dictionary has only 32") as error:
        checked(Setup, {"sizes": "32,512", "ks": "8,64"})
    assert error.value.field == "ks"
    with pytest.raises(UserError, match="k: 300 latents per token, but n_latents is 256"):
        Setup().spec(Cell(architecture="topk", n_latents=256, k=300), 0)


@pytest.mark.parametrize(("cell", "label"), [
    (Cell(architecture="relu", n_latents=1024, l1_coefficient=0.06), "relu, L = 1,024, λ = 0.06"),
    (Cell(architecture="topk", n_latents=64, k=4, multi_topk=True), "multi_topk, L = 64, k = 4")])
def test_a_label_says_what_decides_the_sparsity(cell: Cell, label: str) -> None:
    assert cell.label == label
