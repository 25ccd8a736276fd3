"""Edits of many texts at once: each row equals plain hooks on its own text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.lm.bridge import LanguageModel
from sae.lm.row_model import RowModel, Rows, capacity_of
from sae.steering.batched_edits import RowEdits
from sae.steering.interventions import Steering
from sae.steering.request import Intervention, SteeredPositions
from tests.unit.sae.steering.by_hand import (
    MODES,
    interventions_for,
    logits_by_hand,
    residual_by_hand,
    same,
    tokens_of,
)


def written_by_rows(
    model: RowModel, steerings: list[Steering], tokens: list[int], start: int, batched: bool,
) -> list[Tensor]:
    """Return the logits [S, V] of every steering on one text.

    `start` tokens are read as a prompt and the others one by one, with all steerings in one batch or each alone.
    """
    def write(batch: dict[int, Steering]) -> dict[int, Tensor]:
        store, out = Rows(capacity_of(len(tokens))), {}
        for row, steering in batch.items():
            mask = steering.mask(torch.tensor([tokens[:start]]), 0, start)
            out[row] = [model.read(tokens[:start], steering.edits(mask), store, row, whole=True)]
        order = model.order(list(batch))
        placed = {i: (batch[row], True) for i, row in enumerate(order) if row in batch}
        edits = RowEdits(placed, len(order), model.device)
        for n in range(start, len(tokens)):
            changed = [row in batch and batch[row].changes(tokens[n], n, start) for row in order]
            logits = model.step(store, order, dict.fromkeys(batch, tokens[n]), dict.fromkeys(batch, n),
                               edits.edits(changed)[0])
            for i, row in enumerate(order):
                if row in batch:
                    out[row].append(logits[i : i + 1])
        return {row: torch.cat(parts) for row, parts in out.items()}

    numbered = dict(enumerate(steerings))
    written = write(numbered) if batched else {n: write({n: s})[n] for n, s in numbered.items()}
    return [written[n] for n in numbered]


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("where", [
    SteeredPositions(), SteeredPositions(positions="output"),
    SteeredPositions(positions="from", start=9, special=True)])
def test_rows_of_every_mode_equal_plain_hooks(
    lm: LanguageModel, model: RowModel, plain: Any, tiny_sae: Any, where: SteeredPositions, batched: bool,
) -> None:
    """Compare ten texts, each with another mode and SAE, in one batch and each alone, with the cache."""
    tokens_PS, start = tokens_of(lm), 7
    made = [(tiny_sae(*kind), mode) for kind in (("batch_topk", "layer_norm", 2, 3), ("topk", "none", 1, 4))
            for mode in MODES]
    steerings = [Steering(interventions_for(sae, mode), {sae.config["id"]: sae}, where, [lm.bos_id])
                 for sae, mode in made]
    found = written_by_rows(model, steerings, tokens_PS[0].tolist(), start, batched)
    first = {"all": 0, "output": start, "from": where.start}[where.positions]
    for (sae, mode), logits in zip(made, found, strict=True):
        chosen = interventions_for(sae, mode)
        expected = logits_by_hand(
            plain, tokens_PS, {sae.layer: lambda x_D, sae=sae, chosen=chosen: residual_by_hand(sae, chosen, x_D)},
            lambda position: position >= first and (where.special or position > 0))
        same(logits, expected[0])


def test_a_transcoder_is_read_at_one_site_and_acts_at_another(
    lm: LanguageModel, model: RowModel, plain: Any, tiny_sae: Any
) -> None:
    base = tiny_sae("topk", "none", 2, 8)
    config = {**base.config, "id": "demo/transcoder",
              "site": {"layer": 2, "hook": "blocks.2.hook_resid_mid", "out_hook": "blocks.2.hook_mlp_out"}}
    sae = Autoencoder({**base.tensors(), "b_in": base.b_dec_D * 2}, config)
    chosen = [Intervention(sae="demo/transcoder", layer=2, latent=n, mode=mode, strength=1.5, max_act=4.0)
              for n, mode in ((5, "add"), (6, "clamp"), (7, "scale"), (8, "remove"))]  # type: ignore[arg-type]
    tokens_PS, block, kept = tokens_of(lm), plain.model.layers[2], []

    def by_hand(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        out = output.clone()
        for position in range(1, output.shape[1]):
            pre_L = base.W_enc_LD @ (kept[-1][0, position] - base.b_dec_D * 2) + base.b_enc_L
            top = pre_L.topk(12).indices
            a = {n: float(pre_L[n].clamp(min=0)) if n in top else 0.0 for n in (5, 6, 7)}
            d = base.W_dec_LD
            y = output[0, position] + 6 * d[5] + (6 - a[6]) * d[6] + 0.5 * a[7] * d[7]
            out[0, position] = y - (y @ d[8]) * d[8]
        return out

    handles = [block.post_attention_layernorm.register_forward_pre_hook(lambda _m, x: kept.append(x[0])),
               block.mlp.register_forward_hook(by_hand)]
    with torch.no_grad():
        expected = plain(tokens_PS).logits[0]
    for handle in handles:
        handle.remove()
    steering = Steering(chosen, {"demo/transcoder": sae}, SteeredPositions(), [lm.bos_id])
    edits = steering.edits(steering.mask(tokens_PS, 0, 99))
    same(lm.logits(tokens_PS, edits)[0], expected)
    same(written_by_rows(model, [steering], tokens_PS[0].tolist(), 7, True)[0], expected)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_a_row_is_edited_as_it_is_alone(tiny_sae: Any, seed: int, data: st.DataObject) -> None:
    """Compare rows with `Steering` on one row, and with the same rows among others, to the last bit."""
    saes = [tiny_sae("batch_topk", "layer_norm", 2, 3), tiny_sae("topk", "none", 2, 4)]
    by_id, size = {sae.config["id"]: sae for sae in saes}, 5
    steerings = []
    for _ in range(data.draw(st.integers(1, size))):
        chosen = [Intervention(sae=sae.config["id"], layer=2, latent=latent, mode=mode, strength=1.5, max_act=4.0)
                  for sae, latent, mode in data.draw(st.lists(
                      st.tuples(st.sampled_from(saes), st.integers(0, 47), st.sampled_from(MODES)),
                      min_size=1, max_size=3, unique_by=lambda one: (id(one[0]), one[1])))]
        steerings.append(Steering(chosen, by_id, SteeredPositions(), [0]))
    rows = {row: (steering, data.draw(st.booleans())) for row, steering in zip(
        data.draw(st.permutations(range(size))), steerings, strict=False)}
    changed = [row in rows and rows[row][1] and data.draw(st.booleans()) for row in range(size)]
    x_R1D = torch.randn(size, 1, saes[0].d_model, generator=torch.Generator().manual_seed(seed))

    def edited(which: dict[int, tuple[Steering, bool]]) -> tuple[Tensor, Tensor]:
        edits, acts_RN = RowEdits(which, size, x_R1D.device).edits(changed)
        return edits[saes[0].hook](x_R1D), acts_RN

    found_R1D, acts_RN = edited(rows)
    for row in range(size):
        if row not in rows or not changed[row]:
            assert torch.equal(found_R1D[row], x_R1D[row])
        if row in rows:
            steering = rows[row][0]
            n, readings = len(steering.interventions), {}
            expected_11D = steering.edits(torch.tensor([[True]]), readings)[saes[0].hook](x_R1D[row : row + 1])
            expected_N = torch.stack([readings[index].reshape(()) for index in range(n)])
            torch.testing.assert_close(acts_RN[row, :n], expected_N, rtol=1e-4, atol=1e-5)
            if changed[row]:
                torch.testing.assert_close(found_R1D[row], expected_11D[0], rtol=1e-4, atol=1e-4)
            alone_R1D, alone_RN = edited({row: rows[row]})
            assert torch.equal(alone_R1D[row], found_R1D[row])
            assert torch.equal(alone_RN[row, :n], acts_RN[row, :n])
