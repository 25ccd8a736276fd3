"""The trainers of dictionary_learning and sparsify as a worker, with the protocol of `saelens.py`.

It runs in the environment of `trainers.txt`, which does not have saescope.

    {"make": {"library", "d_sae", "k", "autocast"}, "data": x.npy, "device": "cpu"}
    {"steps": n}      -> {"seconds": [n]}
    {"memory": true}  -> {"peak_mb", "imported_mb"}

dictionary_learning's step is the `update` of its BatchTopKTrainer.  sparsify has TopK alone; its step is what its
trainer does with the activations of one hook point: the forward and backward pass of its SparseCoder, the projection
of the gradient, Adam, and unit norms.
"""

import contextlib
import sys
import time

import numpy as np
import torch
from worker import peak_mb, serve

sys.modules["torchvision"] = None  # type: ignore[assignment]  # nnsight brings it, in a build for another torch


def dictionary_learning(asked: dict, x_ND: torch.Tensor, device: str):
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    trainer = BatchTopKTrainer(
        steps=1_000, activation_dim=x_ND.shape[1], dict_size=asked["d_sae"], k=asked["k"], layer=0, lm_name="",
        lr=3e-4, warmup_steps=0, device=device)
    return trainer.update


def sparsify(asked: dict, x_ND: torch.Tensor, device: str):
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    coder = SparseCoder(x_ND.shape[1], SparseCoderConfig(num_latents=asked["d_sae"], k=asked["k"]), device=device)
    optimizer = torch.optim.Adam(coder.parameters(), lr=3e-4)

    def step(number: int, x_BD: torch.Tensor) -> None:
        if number == 0:
            coder.b_dec.data = x_BD.mean(0)
        coder.set_decoder_norm_to_unit_norm()
        coder(x_BD).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


class Worker:
    def make(self, asked: dict, data: str, device: str) -> dict:
        torch.manual_seed(0)
        x_ND = torch.from_numpy(np.load(data)).to(device)
        self.step = {"dictionary_learning": dictionary_learning, "sparsify": sparsify}[asked["library"]](
            asked, x_ND, device)
        self.imported_mb = peak_mb()
        self.batches, self.done, self.device = x_ND.split(asked["batch_tokens"]), 0, device
        self.autocast = torch.autocast("cpu", torch.bfloat16) if asked["autocast"] else contextlib.nullcontext()
        return {"made": asked["library"]}

    def steps(self, n: int) -> dict:
        seconds = []
        for _ in range(n):
            started = time.perf_counter()
            with self.autocast:
                self.step(self.done, self.batches[self.done % len(self.batches)])
            seconds.append(time.perf_counter() - started)
            self.done += 1
        return {"seconds": seconds}

    def memory(self, _: bool) -> dict:
        return {"peak_mb": peak_mb(), "imported_mb": self.imported_mb}


if __name__ == "__main__":
    serve(Worker())
