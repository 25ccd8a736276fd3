"""Training steps on the pretended device: the CPU's numbers, no waits, few launches, known memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae.distributed import ALONE
from sae.training.loop import StoredActivations, _Loop
from sae.training.trainer import SAETrainer, StepResult
from tests.pretended import Counted, pretend
from tests.unit.sae.pretended.steps import RULES, B, K, batches, trained, trainer_of
from tests.unit.sae.training.test_loop import mixtures, spec_of

pytest.importorskip("triton", reason="Triton is not installed (pip install saescope[triton])")

# With the kernels the host waits once where it must learn how many entries are above a threshold, or how many
# candidates a TopK has.  `launches` bounds the dispatched operations of a step.
WAITS = {"batch_topk": 0, "matryoshka": 0, "batch_topk, multi": 0}
LAUNCHES = {"batch_topk": 40, "topk": 56, "relu": 40}


def counted_step(rule: str, warm: int = 1, **changes: Any) -> tuple[SAETrainer, StepResult, Counted]:
    """Return a trainer, the result of its step after `warm` others, and that step's counts."""
    with pretend("cuda", triton=True) as device:
        trainer = trainer_of(rule, "cuda", **changes)
        *before, last = (y_BD.to("cuda") for y_BD in batches(warm + 1))
        for y_BD in before:
            trainer.step(y_BD, 0.01)
        with device.counting() as counted:
            result = trainer.step(last, 0.01)
    return trainer, result, counted


def same(found: SAETrainer, expected: SAETrainer) -> None:
    """Check that weights, Adam's moments and silence are equal, up to the order of float32 sums."""
    for name, one in expected.tensors().items():
        torch.testing.assert_close(found.tensors()[name].cpu(), one, rtol=1e-4, atol=1e-6)
    adams = (trainer.state()["optimizer"]["state"].values() for trainer in (found, expected))
    for mine, other in zip(*adams, strict=True):
        for name, kept in other.items():
            torch.testing.assert_close(mine[name].cpu(), kept, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.silent_tokens_L.cpu(), expected.silent_tokens_L)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("triton", [True, False], ids=["kernels", "torch"])
def test_two_steps_are_the_cpus_and_then_a_checkpoint_moves_to_the_other(rule: str, triton: bool) -> None:
    """Also checks a step with dead latents, AuxK and a clipped gradient."""
    expected = trained(rule, "cpu", 2)
    assert expected.n_dead
    with pretend("cuda", triton=triton):
        found = trained(rule, "cuda", 2)
        assert {tensor.device.type for tensor in found.tensors().values()} == {"cuda"}
        same(found, expected)
        if not triton:  # every checkpoint resumes on the other device
            again = SAETrainer.resumed(found.spec, expected.state(), torch.device("cuda:1"))
            again.product_dtype = torch.float32
            assert again.W_dec_LD.device == torch.device("cuda", 1)
            y_BD = batches(3)[2]
            again.step(y_BD.to("cuda:1"), 0.01)
            expected.step(y_BD, 0.01)
            same(again, expected)


@pytest.mark.parametrize("rule", RULES)
def test_the_host_waits_for_no_step_or_for_one_count(rule: str) -> None:
    warm = int(rule in LAUNCHES)  # the first step also makes Adam's moments
    _, _, counted = counted_step(rule, warm, dead_after_tokens=10**6)
    assert len(counted.waits) == WAITS.get(rule, 1), counted.waits
    if rule in LAUNCHES:
        assert counted.n_launches <= LAUNCHES[rule], counted.launches


def test_dead_latents_cost_one_overlapped_wait() -> None:
    trainer, result, counted = counted_step("batch_topk", warm=2)
    assert trainer.n_dead
    assert float(result.aux_loss) > 0
    assert [wait.partition(" ")[0] for wait in counted.waits] == ["synchronize"]


def test_segments_longer_than_a_piece_add_their_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 24 pairs and pieces of 8 the longest chain of launches runs; it is the one of real sizes."""
    from sae.kernels import triton_codes

    monkeypatch.setattr(triton_codes, "_PIECE", 8)
    found, _, counted = counted_step("batch_topk", dead_after_tokens=10**6)
    same(found, trained("batch_topk", "cpu", 2, dead_after_tokens=10**6))
    assert counted.launches["_join_kernel"] == 4
    assert counted.n_launches <= LAUNCHES["batch_topk"], counted.launches


def test_a_batch_without_enough_positive_entries_has_empty_pairs() -> None:
    expected, y_BD = trainer_of("batch_topk", "cpu"), batches(1)[0]
    expected.b_enc_L.data.fill_(-2.0)
    with pretend("cuda", triton=True):
        found = trainer_of("batch_topk", "cuda")
        found.b_enc_L.data.fill_(-2.0)
        result = found.step(y_BD.to("cuda"), 0.01)
        reference = expected.step(y_BD, 0.01)
        n = len(reference.codes.value_N)
        assert 0 < n < K * B == len(result.codes.value_N)
        assert result.codes.l0_B().tolist() == reference.codes.l0_B().tolist()
        assert float(result.codes.least()) == pytest.approx(float(reference.codes.least()))
        found.sparsity.observe(result.codes)
        expected.sparsity.observe(reference.codes)
        assert found.sparsity.threshold == pytest.approx(expected.sparsity.threshold)
        same(found, expected)


def test_the_loop_around_a_step_makes_the_host_wait_for_nothing() -> None:
    """Takes steps as the loop does, with the sums of the curves and the check that the loss is finite."""
    x_ND, _ = mixtures(200, 30, 8)
    spec = spec_of(n_latents=16, batch_tokens=16, dead_after_tokens=10**6, tokens=1024)
    with pretend("cuda", triton=True) as device:
        source = StoredActivations(x_ND.to("cuda"), 16)
        loop = _Loop([spec], source, torch.device("cuda"), None, lambda **_: None, ALONE)
        first, second = x_ND[:32].to("cuda").split(16)
        loop.take(first)
        with device.counting() as counted:
            loop.take(second)
    assert counted.waits == []
    assert counted.n_launches <= 70
