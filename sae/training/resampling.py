"""Resampling of dead latents (Bricken et al. 2023, "Neuron resampling").

At fixed steps every dead latent is pointed at an input that the SAE explains badly:

1. an input y of the batch is drawn with a probability in proportion to its squared loss, (‖e‖²)²; 2. the latent's
decoder row becomes the centred input, (y − b_dec)/‖y − b_dec‖; 3. its encoder row becomes the same direction, with 0.2
times the mean length of the alive encoder rows; its bias is 0; 4. Adam's moments of these rows are set to 0.

The paper draws from 819,200 inputs; this code draws from the inputs of one batch.  Nothing is resampled in the second
half of a run, because new latents need time to settle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.kernels.device import wide
from sae.training.trainer import SAETrainer

_ENCODER_SHARE = 0.2


def resampling_due(trainer: SAETrainer) -> bool:
    """Return whether dead latents must be resampled after the step just done."""
    every, done = trainer.spec.resample_every, trainer.steps_done
    return bool(every) and done % every == 0 and 2 * done <= trainer.n_steps


def resample_if_due(trainer: SAETrainer, y_BD: Tensor, error_BD: Tensor) -> None:
    """Resample after the step just done on this batch, if resampling is due."""
    if resampling_due(trainer):
        resample(trainer, y_BD, error_BD)


@torch.no_grad()
def resample(trainer: SAETrainer, y_BD: Tensor, error_BD: Tensor) -> None:
    """Resample the dead latents from a batch and its errors.  The draw follows from seed and step alone."""
    dead_M, group = trainer.dead_M, trainer.group
    y_BD, error_BD = (torch.cat(list(group.gather_replicas(part_BD))) for part_BD in (y_BD, error_BD))
    n_dead_S = torch.stack(list(group.gather_shards(torch.tensor(len(dead_M), device=y_BD.device)))).tolist()
    chance_B = wide(error_BD).square().sum(dim=1).square().cpu()
    if not sum(n_dead_S) or not bool(chance_B.sum() > 0):
        return
    generator = torch.Generator().manual_seed(trainer.spec.seed * 1_000_003 + trainer.steps_done)
    rows_M = torch.multinomial(chance_B, sum(n_dead_S), replacement=True, generator=generator).to(y_BD.device)
    rows_M = torch.split(rows_M, n_dead_S)[group.shard]
    direction_MD = y_BD[rows_M] - trainer.b_in_D
    direction_MD /= direction_MD.norm(dim=1, keepdim=True).clamp(min=1e-12)
    alive_L = torch.ones(len(trainer.silent_tokens_L), dtype=torch.bool, device=y_BD.device)
    alive_L[dead_M] = False
    norm_L = trainer.W_enc_LD.norm(dim=1)
    total, n_alive, total_of_all, n_latents = group.sum_latents(torch.stack(
        [norm_L[alive_L].sum(), alive_L.sum(), norm_L.sum(), alive_L.new_tensor(len(norm_L), dtype=torch.float32)]))
    length = total / n_alive if n_alive > 0 else total_of_all / n_latents
    trainer.W_dec_LD.data[dead_M] = direction_MD
    trainer.W_enc_LD.data[dead_M] = direction_MD * (_ENCODER_SHARE * length)
    trainer.b_enc_L.data[dead_M] = 0.0
    trainer.sparsity.reset(dead_M)
    trainer.silent_tokens_L[dead_M] = 0
    trainer.dead.note()
    trainer.optimizer.forget(dead_M)
