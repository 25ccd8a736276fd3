"""Several processes train the SAE that one process would have trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.distributed import ALONE, Group
from sae.distributed.world import World, device_of, open_world
from sae.errors import UserError
from sae.specs.registry import TrainSpec
from sae.training.optimizer import OF_SPACE
from sae.training.resampling import resample_if_due
from sae.training.trainer import SAETrainer
from tests.unit.sae.distributed.worlds import in_processes

B, L, D, K, STEPS = 16, 48, 10, 3, 12
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "topk": {}, "batch_topk": {}, "matryoshka": {"prefixes": "0.25, 0.5, 1"},
    "multi_topk": {"architecture": "topk", "multi_topk": True},
    "multi_batch_topk": {"architecture": "batch_topk", "multi_topk": True},
    "relu": {"l1_coefficient": 0.3}, "resampled_relu": {"architecture": "relu", "resample_every": 3},
    "gated": {"l1_coefficient": 0.3}, "jumprelu": {"l0_coefficient": 0.7, "bandwidth": 0.8},
    "transcoder": {"architecture": "batch_topk"}}


def trained(architecture: str, group: Group) -> dict[str, Any]:
    """Return all that a few steps leave, and the results they reported; tensors of latents are this shard's."""
    values: dict[str, Any] = {
        "architecture": architecture, "n_latents": L, "k": K, "k_aux": 4, "aux_alpha": 0.5, "tokens": 1000,
        "batch_tokens": B, "dead_after_tokens": 2 * B, "clip_norm": 0.5, "seed": 3, **ARCHITECTURES[architecture]}
    generator = torch.Generator().manual_seed(0)
    start = DataStatistics(torch.randn(D, generator=generator), variance=2.5, input_scale=1.2,
                  b_in_D=torch.randn(7, generator=generator) if architecture == "transcoder" else None)
    trainer = SAETrainer(TrainSpec(**values), start, torch.device("cpu"), torch.float32, group)
    rows = []
    for _ in range(STEPS):
        y_BD = 1.5 * torch.randn(B, D if start.b_in_D is None else 7, generator=generator)
        target_BD = None if start.b_in_D is None else torch.randn(B, D, generator=generator)
        own_target_BD = None if target_BD is None else group.batch_share(target_BD)
        result = trainer.step(group.batch_share(y_BD), 0.01, own_target_BD)
        resample_if_due(trainer, group.batch_share(y_BD), result.error_BD)
        trainer.sparsity.observe(result.codes)
        pairs = group.sum_all(torch.tensor(len(result.codes.value_N)))
        rows.append([float(result.loss), float(result.aux_loss), float(result.sparsity_loss), float(pairs),
                     float(trainer.n_dead)])
    state = trainer.state()
    return {"tensors": state["tensors"], "rows": rows, "silent": state["silent"],
            "threshold": trainer.sparsity.threshold}


def everything(worlds: list[tuple[int, list[str]]]) -> list[dict[str, Any]]:
    """Return, for every number of shards, the selections and what training leaves of some architectures."""
    return [{"ties": ties(group := World(shards)), "trained": {name: trained(name, group) for name in architectures}}
            for shards, architectures in worlds]


def ties(group: Group) -> list[list[Tensor]]:
    """Return every rank's pairs of selections from matrices with many ties, in the numbers of the whole matrix."""
    out = []
    for seed in range(30):
        pre_BL = _with_ties(seed)
        own_BL = group.latent_share(group.batch_share(pre_BL).T).T.contiguous()
        for n in (1, 7, 40, 500):
            for codes in (group.batch_topk(own_BL, n), group.row_topk(own_BL, min(n, 12))):
                token_N = codes.token_N + group.replica * codes.n_tokens
                out.append([token_N * pre_BL.shape[1] + codes.latent_N + group.shard * codes.n_latents, codes.value_N])
    return out


def _with_ties(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    pre_BL = torch.randn(8, 12, generator=generator) + (0.5 if seed % 3 else -3)
    return (pre_BL * 2).round() / 2 if seed % 2 else pre_BL


@pytest.mark.parametrize(("world", "worlds"), [
    (2, [(1, list(ARCHITECTURES)), (2, list(ARCHITECTURES))]),
    pytest.param(4, [(2, ["batch_topk", "topk"])], marks=pytest.mark.heavy)])
def test_several_processes_are_one(world: int, worlds: list[tuple[int, list[str]]], tmp_path: Path) -> None:
    results = in_processes(everything, world, tmp_path, worlds)
    for number, (shards, architectures) in enumerate(worlds):
        check_selections([result[number]["ties"] for result in results])
        for name in architectures:
            check_training(name, [result[number]["trained"][name] for result in results], shards)


def check_selections(by_rank: list[list[list[Tensor]]]) -> None:
    """Check that all ranks together select what a full sort selects, and the first of equal entries."""
    number = 0
    for seed in range(30):
        pre_BL = _with_ties(seed)
        for n in (1, 7, 40, 500):
            flat = pre_BL.flatten()
            strongest = sorted(flat.clamp(min=0).nonzero().squeeze(1).tolist(), key=lambda i: (-float(flat[i]), i))[:n]
            found = torch.cat([selections[number][0] for selections in by_rank])
            assert sorted(found.tolist()) == sorted(strongest)
            kept = torch.zeros_like(flat)
            for selections in by_rank:
                kept[selections[number + 1][0]] = selections[number + 1][1]
            sorted_BL = pre_BL.clamp(min=0).sort(dim=1, descending=True).values
            sorted_BL[:, min(n, 12) :] = 0
            assert torch.equal(kept.reshape(pre_BL.shape).sort(dim=1, descending=True).values, sorted_BL)
            number += 2


def check_training(name: str, by_rank: list[dict[str, Any]], shards: int) -> None:
    """Check that every rank has its part of the SAE that one process would have trained, and reports the same."""
    alone = trained(name, ALONE)
    aux, theta = torch.tensor(alone["rows"])[:, 1], alone["threshold"]
    if name not in ("relu", "resampled_relu", "gated"):
        assert bool((aux > 0).any()), "the AuxK loss should be at work"
    for rank, result in enumerate(by_rank):
        shard = rank % shards
        torch.testing.assert_close(torch.tensor(result["rows"]), torch.tensor(alone["rows"]), rtol=1e-5, atol=1e-5)
        assert result["threshold"] == (theta and pytest.approx(theta, rel=1e-5))
        for tensor, whole in alone["tensors"].items():
            share = whole if tensor in OF_SPACE else whole.chunk(shards)[shard]
            torch.testing.assert_close(result["tensors"][tensor], share, rtol=1e-5, atol=1e-5,
                                       msg=lambda m, t=tensor: f"{name} {t}: {m}")
        assert torch.equal(result["silent"], alone["silent"].chunk(shards)[shard])


@pytest.mark.parametrize(("world", "shards", "batch", "field"), [
    ("1", 2, 64, "shards"), ("6", 4, 64, "shards"), ("6", 2, 64, "batch_tokens")])
def test_processes_that_cannot_be_divided_are_refused(
    world: str, shards: int, batch: int, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(UserError, match=f"^{field}: ") as raised:
        open_world(shards, batch)
    assert raised.value.field == field


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert open_world(1, 63) is ALONE
    assert device_of("auto") == "auto"
    assert ALONE.agreed(True, False) == (True, False)
