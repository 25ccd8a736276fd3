"""Interventions on one token of many texts at once, one row per text, each row with its own interventions.

The formulas of `sae.steering.interventions.Steering` are arranged so that a row's result does not depend
on the other rows.  Each activation is a separate sum over D for one row and one latent, and changes are added one
intervention after the other.

Shapes: R rows of a step, D width of a site, N largest number of interventions of a row, U latents of one SAE
that some row reads, C all such latents of all SAEs, M largest number of removed directions of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.lm.bridge import Edit
from sae.lm.row_model import ROWS
from sae.steering.interventions import Steering


@dataclass(frozen=True)
class _Read:
    """The latents of one SAE that are read; their columns start at `column`."""

    sae: Autoencoder
    latent_U: Tensor
    column: int
    number: int  # number of the SAE


@dataclass(frozen=True)
class _Write:
    """The changes at one site.

    `direction_NRD[j]` holds each row's direction for intervention `indices[j]`, or 0 if the row has none here.
    """

    indices: list[int]
    direction_NRD: Tensor
    remove_MRD: Tensor
    put_MRD: Tensor


class RowEdits:
    """Edits for [R, 1, D] sites.

    `rows` gives for each used row of the step the text's interventions, and whether the text is steered or only
    read.  `size` is the number of rows, R.
    """

    def __init__(self, rows: Mapping[int, tuple[Steering, bool]], size: int, device: torch.device) -> None:
        self._rows, self._size = dict(rows), size
        self._device = device
        wanted: dict[int, dict[int, int]] = {}  # SAE -> latent -> its number among the SAE's latents
        saes: dict[int, Autoencoder] = {}
        for steering, _ in rows.values():
            for group in steering.groups:
                saes[id(group.sae)] = group.sae
                numbers = wanted.setdefault(id(group.sae), {})
                for latent in group.latent_N.tolist():
                    numbers.setdefault(latent, len(numbers))
        self._reads: list[_Read] = []
        columns = 0
        for number, (key, sae) in enumerate(saes.items()):
            latents = torch.tensor(list(wanted[key]), dtype=torch.long, device=device)
            self._reads.append(_Read(sae, latents, columns, number))
            columns += len(latents)
        self._n_columns = columns
        self._lay_out(wanted)
        self._writes = {hook: self._write(hook) for hook in dict.fromkeys(s.out_hook for s in saes.values())}

    def _lay_out(self, wanted: Mapping[int, Mapping[int, int]]) -> None:
        """Set column, SAE number, target and gain of every row and intervention."""
        N = max((len(steering.interventions) for steering, _ in self._rows.values()), default=0)
        column, number = [[0] * N for _ in range(self._size)], [[0] * N for _ in range(self._size)]
        target, gain = [[0.0] * N for _ in range(self._size)], [[0.0] * N for _ in range(self._size)]
        read_of = {id(read.sae): read for read in self._reads}
        for row, (steering, _) in self._rows.items():
            for group in steering.groups:
                read = read_of[id(group.sae)]
                for index in group.index_N:
                    i = steering.interventions[index]
                    column[row][index] = read.column + wanted[id(group.sae)][i.latent]
                    number[row][index] = read.number
                    target[row][index], gain[row][index] = i.target, i.gain
        self._column_RN = torch.tensor(column, dtype=torch.long, device=self._device).view(self._size, N)
        self._number_RN = torch.tensor(number, dtype=torch.long, device=self._device).view(self._size, N)
        self._target_RN = torch.tensor(target, device=self._device).view(self._size, N)
        self._gain_RN = torch.tensor(gain, device=self._device).view(self._size, N)

    def _write(self, hook: str) -> _Write:
        directions: dict[int, dict[int, Tensor]] = {}  # intervention -> row -> direction
        removals = {}
        for row, (steering, steered) in self._rows.items():
            for group in steering.groups:
                if steered and group.sae.out_hook == hook:
                    for n, index in enumerate(group.index_N):
                        if steering.interventions[index].mode != "remove":
                            directions.setdefault(index, {})[row] = group.direction_ND[n]
            if steered and hook in steering.removals:
                removals[row] = steering.removals[hook]
        D = next(read.sae.d_model for read in self._reads if read.sae.out_hook == hook)
        indices, M = sorted(directions), max((len(r.read_RD) for r in removals.values()), default=0)
        direction_NRD = torch.zeros(len(indices), self._size, D, device=self._device)
        remove_MRD, put_MRD = (torch.zeros(M, self._size, D, device=self._device) for _ in range(2))
        for j, index in enumerate(indices):
            for row, direction_D in directions[index].items():
                direction_NRD[j, row] = direction_D
        for row, removal in removals.items():
            remove_MRD[: len(removal.read_RD), row] = removal.read_RD
            put_MRD[: len(removal.write_RD), row] = removal.write_RD
        return _Write(indices, direction_NRD, remove_MRD, put_MRD)

    def edits(self, steered: Sequence[bool]) -> tuple[dict[str, Edit], Tensor]:
        """Return the edits of one step, and the tensor of activations [R, N] that the step fills in.

        `steered` says for every row whether its token is changed.
        """
        acts_RC = torch.zeros(self._size, self._n_columns, device=self._device)
        scale_RS = torch.ones(self._size, len(self._reads), device=self._device)
        acts_RN = torch.zeros(self._column_RN.shape, device=self._device)
        mask_R1 = torch.tensor([[s] for s in steered], device=self._device)

        def edit_of(hook: str) -> Edit:
            reads = [read for read in self._reads if read.sae.hook == hook]
            write = self._writes.get(hook)

            def edit(site: Tensor) -> Tensor:
                x_RD = site.reshape(self._size, -1).float()
                for read in reads:
                    acts_RC[:, read.column : read.column + len(read.latent_U)] = _activations(read, x_RD)
                    scale_RS[:, read.number] = read.sae.scale(x_RD)[:, 0]
                if reads:
                    torch.gather(acts_RC, 1, self._column_RN, out=acts_RN)
                if write is None or not any(steered):
                    return site
                coefficient_RN = (self._target_RN + self._gain_RN * acts_RN) * scale_RS.gather(1, self._number_RN)
                changed_RD = _changed(x_RD, coefficient_RN, write)
                return torch.where(mask_R1, changed_RD.to(site.dtype), site.reshape(x_RD.shape)).view(site.shape)

            return edit

        hooks = dict.fromkeys([*(read.sae.hook for read in self._reads), *self._writes])
        return {hook: edit_of(hook) for hook in hooks}, acts_RN


def _activations(read: _Read, x_RD: Tensor) -> Tensor:
    """Compute the activations [R, U], each from its own row and latent alone."""
    sae, latents = read.sae, read.latent_U
    if not sae.sparsity.independent:
        # The rounding of a product of rows with all latents depends on its shape, so the shape is kept constant.
        return sae.activation_of(F.pad(x_RD, (0, 0, 0, ROWS - len(x_RD))), latents)[: len(x_RD)]
    y_RD, _, _ = sae.normalizer.apply(x_RD)
    pre_RU = ((y_RD - sae.b_in_D)[:, None, :] * sae.W_enc_LD[latents]).sum(dim=-1) + sae.b_enc_L[latents]
    active = sae.sparsity.select(pre_RU, latents)
    acts_RU = torch.zeros_like(pre_RU)
    acts_RU[active.token_N, active.latent_N] = active.value_N
    return acts_RU if sae.activation_scale_L is None else acts_RU * sae.activation_scale_L[latents]


def _changed(x_RD: Tensor, coefficient_RN: Tensor, write: _Write) -> Tensor:
    for index, direction_RD in zip(write.indices, write.direction_NRD, strict=True):
        x_RD = x_RD + coefficient_RN[:, index : index + 1] * direction_RD
    if len(write.remove_MRD):
        shares = [(x_RD * remove_RD).sum(dim=1, keepdim=True) for remove_RD in write.remove_MRD]
        for share_R1, put_RD in zip(shares, write.put_MRD, strict=True):
            x_RD = x_RD - share_R1 * put_RD
    return x_RD
