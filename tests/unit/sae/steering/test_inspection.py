"""Inspection of a text against the SAE's dense codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae.lm.row_model import RowModel
from sae.steering.inspection import inspect_text, windows


@pytest.mark.parametrize("architecture", ["batch_topk", "topk"])
def test_inspection_is_the_saes_codes(model: RowModel, ids: list[int], tiny_sae: Any, architecture: str) -> None:
    saes = [tiny_sae(architecture, "layer_norm", 1, 3), tiny_sae("topk", "none", 2, 4)]
    special = [i == 0 for i in ids]
    readings, cuts = inspect_text(model, ids, saes, special, top=3)
    assert cuts == []
    for sae, reading in zip(saes, readings, strict=True):
        x_SD = model.lm.activations(torch.tensor([ids]), sae.hook)[0]
        dense_SL = sae.activation_of(x_SD, torch.arange(sae.n_latents))
        assert reading.l0 == (dense_SL > 0).sum(1).tolist()
        for position in range(len(ids)):
            found = [(latent, act) for p, latent, act in zip(reading.position, reading.latent, reading.act, strict=True)
                     if p == position]
            acts, latents = dense_SL[position].topk(3)
            assert [latent for latent, _ in found] == latents[acts > 0].tolist()
            assert [act for _, act in found] == pytest.approx(acts[acts > 0].tolist(), rel=1e-3)
        counted_SL = dense_SL[~torch.tensor(special)]
        firing = (counted_SL > 0).any(0).nonzero()[:, 0].tolist()
        assert sorted(f.latent for f in reading.ranked) == firing
        assert [f.max for f in reading.ranked] == sorted((f.max for f in reading.ranked), reverse=True)
        for f in reading.ranked:
            assert f.max == pytest.approx(float(counted_SL[:, f.latent].max()), rel=1e-3)
            assert f.sum == pytest.approx(float(counted_SL[:, f.latent].sum()), rel=1e-3)
            assert f.n == int((counted_SL[:, f.latent] > 0).sum())
            assert float(dense_SL[f.peak, f.latent]) == pytest.approx(f.max, rel=1e-3)


def test_a_requested_latent_is_listed_wherever_it_fires(model: RowModel, ids: list[int], tiny_sae: Any) -> None:
    sae = tiny_sae("batch_topk", "layer_norm", 1, 3)
    dense_SL = sae.activation_of(model.lm.activations(torch.tensor([ids]), sae.hook)[0], torch.arange(sae.n_latents))
    latent = int((dense_SL > 0).sum(0).argmax())
    (reading,), _ = inspect_text(model, ids, [sae], [i == 0 for i in ids], top=1, latents=[latent])
    acts = {p: a for p, other, a in zip(reading.position, reading.latent, reading.act, strict=True) if other == latent}
    assert acts == pytest.approx({p: float(a) for p, a in enumerate(dense_SL[:, latent]) if a > 0}, rel=1e-3)
    (plain,), _ = inspect_text(model, ids, [sae], [i == 0 for i in ids], top=1)
    assert plain.latent.count(latent) < len(acts)


def test_a_long_text_is_read_in_windows(model: RowModel, ids: list[int], tiny_sae: Any) -> None:
    sae, long = tiny_sae(), [ids[0], *(ids[1:] * 30)][:600]
    (reading,), cuts = inspect_text(model, long, [sae], [i == 0 for i in long], top=2)
    assert len(reading.l0) == 600
    assert cuts == [256, 511]
    parts = windows(long, 0, 256)
    assert [len(part) for part in parts] == [256, 256, 90]
    assert [token for n, part in enumerate(parts) for token in (part if n == 0 else part[1:])] == long
    second = model.lm.activations(torch.tensor([parts[1]]), sae.hook)[0]
    dense_SL = sae.activation_of(second, torch.arange(sae.n_latents))
    assert reading.l0[256:511] == (dense_SL > 0).sum(1).tolist()[1:]
