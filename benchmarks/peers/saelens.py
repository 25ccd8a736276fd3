"""SAELens as a worker, which reads one JSON request per line and answers with one JSON object per line.

It runs in the environment of `saelens.txt`, which does not have saescope.

    {"make": {...}, "data": x.npy, "device": "cpu"}   make a trainer on these activations, float32 [N, D]
    {"steps": n}                                       -> {"seconds": [n]}: training steps, as `fit` does them
    {"save": folder}                                   finish the training and save the SAE for inference
    {"memory": true}                                   -> {"peak_mb", "imported_mb"}

`make` has architecture, sae (settings of its training config), trainer (of SAETrainerConfig) and seed.  Optional
initial values that differ from SAELens' own are b_dec (a list) and fill (parameter -> number).
"""

import os
import time

os.environ.update(WANDB_MODE="disabled", HF_HUB_OFFLINE="1", TQDM_DISABLE="1")

import numpy as np
import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer
from worker import peak_mb, serve


def batches(x_ND: torch.Tensor, size: int, seed: int):
    """Yield batches without end, in a new permutation for every pass."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(x_ND), generator=generator)[: len(x_ND) // size * size].split(size):
            yield x_ND[rows]


class Worker:
    def make(self, asked: dict, data: str, device: str) -> dict:
        torch.manual_seed(asked["seed"])
        x_ND = torch.from_numpy(np.load(data)).to(device)
        sae_class, config_class = get_sae_training_class(asked["architecture"])
        sae = sae_class(config_class(d_in=x_ND.shape[1], device=device, **asked["sae"])).to(device)
        if "b_dec" in asked:
            sae.b_dec.data.copy_(torch.tensor(asked["b_dec"]))
        for name, value in asked.get("fill", {}).items():
            getattr(sae, name).data.fill_(value)
        config = SAETrainerConfig(device=device, **asked["trainer"])
        config.lr_end = config.lr_end or config.lr / 10  # what its runner's configuration sets
        stream = batches(x_ND, config.train_batch_size_samples, asked["seed"])
        self.trainer, self.device = SAETrainer(config, sae, stream), device
        return {"made": asked["architecture"]}

    def steps(self, n: int) -> dict:
        seconds = []
        for _ in range(n):
            batch = next(self.trainer.data_provider)
            self._wait()
            started = time.perf_counter()
            self.trainer.step(batch)
            self._wait()
            seconds.append(time.perf_counter() - started)
            self.trainer.n_training_steps += 1
        return {"seconds": seconds}

    def save(self, folder: str) -> dict:
        started = time.perf_counter()
        self.trainer.fit().save_inference_model(folder)
        return {"saved": folder, "seconds": time.perf_counter() - started}

    def memory(self, _: bool) -> dict:
        if self.device != "cpu":
            return {"peak_mb": torch.cuda.max_memory_allocated() / 2**20, "imported_mb": 0.0}
        return {"peak_mb": peak_mb(), "imported_mb": IMPORTED_MB}

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


IMPORTED_MB = peak_mb()


if __name__ == "__main__":
    serve(Worker())
