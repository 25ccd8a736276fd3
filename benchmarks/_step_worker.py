"""A worker (`benchmarks/_workers.py`) that measures saescope's training step and the bare encoder product.

    {"make": spec, "data": x.npy, "device": "cpu"}   make a trainer on these activations, float32 [N, D]
    {"steps": n}      -> {"seconds": [n]}            training steps
    {"product": n}    -> {"fresh": [n], "kept": [n]} x @ W.T in bfloat16; `kept` writes to existing memory
    {"memory": true}  -> {"peak_mb", "imported_mb"}
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.specs.registry import TrainSpec
from sae.training.trainer import SAETrainer


def peak_mb() -> float:
    """Return this program's peak resident memory in MB (`ru_maxrss` would include its parent's)."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Stepper:
    """A trainer and the batches that it repeats."""

    def make(self, spec: TrainSpec, data: str, device: torch.device) -> None:
        self.device = device
        x_ND = torch.from_numpy(np.load(data)).to(device)
        self.batches = x_ND.split(spec.batch_tokens)
        start = DataStatistics.measure(x_ND[: spec.batch_tokens], b_dec_init="mean")
        self.trainer, self.lr, self.done = SAETrainer(spec, start, device), spec.lr, 0

    def steps(self, n: int) -> dict[str, Any]:
        return {"seconds": [self._seconds(self._step) for _ in range(n)]}

    def product(self, n: int) -> dict[str, Any]:
        x_BD, W_LD = self.batches[0].bfloat16(), self.trainer.W_enc_LD.detach().bfloat16()
        out_BL = torch.empty(len(x_BD), len(W_LD), dtype=torch.bfloat16, device=self.device)
        out_BL.zero_()  # allocates its pages before the first product
        return {"fresh": [self._seconds(lambda: x_BD @ W_LD.T) for _ in range(n)],
                "kept": [self._seconds(lambda: torch.mm(x_BD, W_LD.T, out=out_BL)) for _ in range(n)]}

    def memory(self, _: bool) -> dict[str, Any]:
        if self.device.type == "cuda":
            return {"peak_mb": torch.cuda.max_memory_allocated() / 2**20, "imported_mb": 0.0}
        return {"peak_mb": peak_mb(), "imported_mb": IMPORTED_MB}

    def _step(self) -> None:
        self.trainer.step(self.batches[self.done % len(self.batches)], self.lr)
        self.done += 1

    def _seconds(self, work: Callable[[], Any]) -> float:
        self._wait()
        started = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


IMPORTED_MB = peak_mb()


def main() -> None:
    stepper = Stepper()
    for line in sys.stdin:
        request = json.loads(line)
        if "make" in request:
            stepper.make(TrainSpec(**request["make"]), request["data"], torch.device(request["device"]))
            answer: dict[str, Any] = {"made": request["make"]["architecture"]}
        else:
            ((name, value),) = request.items()
            answer = getattr(stepper, name)(value)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
