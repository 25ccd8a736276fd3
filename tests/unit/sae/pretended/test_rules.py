"""The pretended device refuses what a real one refuses, and counts what the host waits for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.pretended import pretend


def test_numbers_are_the_cpus_and_devices_are_kept() -> None:
    with pretend("cuda"):
        x = torch.arange(6.0, device="cuda:1").reshape(2, 3)
        assert str((x @ x.T).sort().values.device) == "cuda:1"
        assert x.is_cuda
        assert not x.cpu().is_cuda
        assert torch.equal((2 * x).cpu(), 2 * torch.arange(6.0).reshape(2, 3))
        assert torch.zeros_like(x).device == x.new_empty(1).device == torch.device("cuda", 1)
        model = torch.nn.Linear(3, 2).to("cuda")
        assert {p.device.type for p in model.parameters()} == {"cuda"}
        model(x.to("cuda")).sum().backward()
        assert model.weight.grad is not None
        assert model.weight.grad.is_cuda


def test_operands_on_two_devices_are_refused() -> None:
    with pretend("cuda"):
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        for work in (lambda: there + here, lambda: there + there.to("cuda:1"), lambda: here[there.long()],
                     lambda: torch.cat([there, here]), lambda: there.masked_fill(here > 0, 0.0),
                     lambda: torch._foreach_mul_([there], torch.tensor(2.0)), there.numpy,
                     lambda: torch.randperm(3, device="cuda", generator=torch.Generator().manual_seed(0))):
            with pytest.raises((RuntimeError, TypeError), match=r"same device|numpy|generator"):
                work()
        assert (there * torch.tensor(2.0)).tolist() == [2.0, 2.0, 2.0]  # a number of the host is an argument
        assert torch.randperm(3, device="cuda", generator=torch.Generator("cuda").manual_seed(0)).is_cuda


def test_what_makes_the_host_wait_is_counted() -> None:
    with pretend("cuda") as device:
        x, mask = torch.ones(4, device="cuda"), torch.ones(4, dtype=torch.bool, device="cuda")
        for work, waits in ((lambda: float(x.sum()), 1), (lambda: x[mask], 1), (mask.nonzero, 1), (x.cpu, 1),
                            (lambda: torch.tensor([1], device="cuda"), 1), (lambda: torch.bincount(mask.long()), 1),
                            (lambda: x[torch.tensor([0])], 1), (lambda: bool((x > 0).all()), 1), (x.tolist, 1),
                            (lambda: (x * 2 + torch.zeros(4, device="cuda")).cumsum(0), 0), (lambda: x[1:], 0),
                            (lambda: torch.where(mask, x, 0.0), 0)):
            with device.counting() as counted:
                work()
            assert len(counted.waits) == waits, (counted.waits, waits)


def test_launches_and_live_bytes_are_counted() -> None:
    with pretend("cuda") as device, device.counting() as counted:
        x = torch.empty(1000, device="cuda")
        y = x.view(10, 100).T + 1
        del x
        assert dict(counted.launches) == {"add": 1}
        assert (counted.live, counted.peak) == (4000, 8000)
        del y
        assert counted.live == 0


def test_other_threads_know_the_device() -> None:
    with pretend("cuda"), ThreadPoolExecutor(1) as pool:
        assert str(pool.submit(lambda: torch.zeros(2, device="cuda").device).result()) == "cuda:0"


def test_apples_gpus_lack_float64_and_sparse_products() -> None:
    with pretend("mps"):
        x = torch.ones(2, 2, device="mps")
        with pytest.raises(TypeError, match="float64"):
            x.double()
        with pytest.raises(NotImplementedError, match="not currently implemented for the MPS device"):
            torch.linalg.svd(x)
        assert (x @ x).cpu().tolist() == [[2.0, 2.0], [2.0, 2.0]]
