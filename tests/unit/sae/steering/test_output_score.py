"""Output scores against plain computations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sae.errors import UserError
from sae.lm.row_model import RowModel
from sae.lm.sites import resid_post
from sae.steering.output_score import output_scores


def test_output_scores_by_hand(model: RowModel, tiny_sae: Any) -> None:
    sae, prompts = tiny_sae("batch_topk", "layer_norm"), ["def f(", "import"]
    latents, maxima = [3, 11, 7], [5.0, 0.0, 2.0]
    (found,) = output_scores(model, sae, "x", latents, maxima, prompts, strength=3.0, top=4)
    assert [score.latent for score in found] == latents
    assert found[1].score is None
    for n in (0, 2):
        direction_D = sae.W_dec_LD[latents[n]]
        top = (direction_D @ model.lm.unembedding()).topk(4).indices
        assert found[n].tokens == top.tolist()
        expected = 0.0
        for prompt in prompts:
            tokens = torch.tensor([[0, *model.lm.encode(prompt)]])

            def push(x_1SD: Tensor, n: int = n, direction_D: Tensor = direction_D) -> Tensor:
                change = 3.0 * maxima[n] * sae.scale(x_1SD[0]) * direction_D
                change[0] = 0
                return x_1SD + change

            p_V, q_V = (model.lm.logits(tokens, edits)[0, -1].softmax(0) for edits in (None, {resid_post(2): push}))
            expected += float((q_V[top] - p_V[top]).sum()) / 2
        assert found[n].score == pytest.approx(expected, abs=1e-4)


def test_scores_refuse_missing_latents_and_long_prompts(model: RowModel, tiny_sae: Any) -> None:
    for latents, prompts, field in (([48], ["x"], "latents.0"), ([1], ["x = 1\n" * 300], "prompts")):
        with pytest.raises(UserError) as error:
            list(output_scores(model, tiny_sae(), "x", latents, [1.0], prompts))
        assert error.value.field == field
