"""Steering: interventions along SAE latents, prepared for a language model's forward passes.

`Steering` edits whole texts, and `sae/steering/batched_edits.py` edits one token of many texts at once.  Both
compute the formulas of `sae/steering/request.py`.

Shapes: P sequences, S positions, B = P·S, D width of a site, N interventions of one SAE, R removed
directions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError
from sae.lm.bridge import Edit, LanguageModel
from sae.lm.sites import OWN_WIDTH, kind_of
from sae.steering.request import Intervention, SteeredPositions, SteerRequest, check_room


@dataclass(frozen=True)
class SAEInterventions:
    """The interventions on latents of one SAE, as tensors.

    `index_N` holds their indices in the request.  `direction_ND` holds the directions along which they act:
    the decoder rows, or random directions of the same length for a control.
    """

    sae: Autoencoder
    index_N: list[int]
    latent_N: Tensor
    direction_ND: Tensor
    target_N: Tensor
    gain_N: Tensor

    def update(self, acts_BN: Tensor, scale_B1: Tensor) -> Tensor:
        """Return the change at the site: (target + gain·a)·scale·d, summed over the latents, [B, D]."""
        return ((self.target_N + self.gain_N * acts_BN) @ self.direction_ND) * scale_B1


@dataclass(frozen=True)
class Removal:
    """The subtraction of (x·u)·v from x, for every pair of rows u of `read_RD` and v of `write_RD`.

    The rows of each are orthonormal, and v = u except for a control.
    """

    read_RD: Tensor
    write_RD: Tensor

    def of(self, x_BD: Tensor) -> Tensor:
        return x_BD - (x_BD @ self.read_RD.T) @ self.write_RD


class Steering:
    """Interventions prepared for a language model: edits of the sites that they read and change.

    All activations at a site are read from its input, before any edit of that site, so the additive
    modes may be summed.  Removed directions are projected out last and all together, so that
    their order does not matter.  With `control_seed`, every direction is replaced by a random one.

    Raises UserError if an SAE belongs to another layer or has no such latent.
    """

    def __init__(
        self, interventions: Sequence[Intervention], saes: Mapping[str, Autoencoder],
        where: SteeredPositions | None = None, special_ids: Sequence[int] = (), control_seed: int | None = None,
    ) -> None:
        self.interventions = list(interventions)
        self.where = where or SteeredPositions()
        self.special_ids = frozenset(special_ids)
        self.groups: list[SAEInterventions] = []
        self.removals: dict[str, Removal] = {}  # by the site that is changed
        for sae_id in dict.fromkeys(i.sae for i in interventions):
            self.groups.append(_group(sae_id, saes[sae_id], self.interventions, control_seed))
        for hook in dict.fromkeys(group.sae.out_hook for group in self.groups):
            rows = [group.sae.W_dec_LD[self.interventions[index].latent].float()
                    for group in self.groups if group.sae.out_hook == hook
                    for index in group.index_N if self.interventions[index].mode == "remove"]
            if rows:
                self.removals[hook] = _removal(torch.stack(rows), hook, control_seed)

    def first(self, prompt_length: int) -> int:
        """Return the first position that may be changed."""
        return {"all": 0, "output": prompt_length, "from": self.where.start}[self.where.positions]

    def changes(self, token: int, position: int, prompt_length: int) -> bool:
        """Return whether this token is changed."""
        return position >= self.first(prompt_length) and (self.where.special or token not in self.special_ids)

    def mask(self, tokens_PS: Tensor, start: int, prompt_length: int) -> Tensor:
        """Return whether each position is changed, [P, S]; the tokens have absolute positions start, start + 1, …"""
        return torch.tensor([
            [self.changes(token, start + i, prompt_length) for i, token in enumerate(row)]
            for row in tokens_PS.tolist()], dtype=torch.bool, device=tokens_PS.device)

    def edits(self, mask_PS: Tensor, readings: dict[int, Tensor] | None = None) -> dict[str, Edit]:
        """Return the edits of one forward pass over the positions of `mask_PS`.

        The pass stores in `readings[i]` the activation [P, S] of the i-th intervention's latent.
        """
        read: dict[int, tuple[Tensor, Tensor]] = {}  # activations [B, N] and scale [B, 1] by the group's number
        kept = readings if readings is not None else {}
        hooks = [*(g.sae.hook for g in self.groups), *(g.sae.out_hook for g in self.groups)]
        return {hook: self._edit(hook, mask_PS, read, kept) for hook in dict.fromkeys(hooks)}

    def _edit(
        self, hook: str, mask_PS: Tensor, read: dict[int, tuple[Tensor, Tensor]], readings: dict[int, Tensor]
    ) -> Edit:
        readers = [(n, group) for n, group in enumerate(self.groups) if group.sae.hook == hook]
        writers = [(n, group) for n, group in enumerate(self.groups) if group.sae.out_hook == hook]

        def edit(site: Tensor) -> Tensor:
            x_BD = site.reshape(mask_PS.numel(), -1).float()
            for n, group in readers:
                acts_BN = group.sae.activation_of(x_BD, group.latent_N)
                read[n] = acts_BN, group.sae.scale(x_BD)
                for index, acts_B in zip(group.index_N, acts_BN.unbind(1), strict=True):
                    readings[index] = acts_B.view(mask_PS.shape)
            if not writers:
                return site
            changed_BD = x_BD
            for n, group in writers:
                changed_BD = changed_BD + group.update(*read[n])
            if hook in self.removals:
                changed_BD = self.removals[hook].of(changed_BD)
            # Positions outside the mask keep their exact bits.
            mask_B1 = mask_PS.reshape(-1, 1)
            return torch.where(mask_B1, changed_BD.to(site.dtype), site.reshape(x_BD.shape)).view(site.shape)

        return edit


def _group(
    sae_id: str, sae: Autoencoder, interventions: Sequence[Intervention], control_seed: int | None
) -> SAEInterventions:
    indices = [index for index, i in enumerate(interventions) if i.sae == sae_id]
    chosen = [interventions[index] for index in indices]
    for i in chosen:
        if i.layer != sae.layer:
            raise UserError(f"layer: {sae_id} reads block {sae.layer}, not {i.layer}", "layer")
        check_latent(sae_id, sae, i.latent)
    latent_N = torch.tensor([i.latent for i in chosen], dtype=torch.long, device=sae.device)
    direction_ND = sae.W_dec_LD[latent_N].float()
    if not bool((direction_ND.norm(dim=1) > 0).all()):
        raise UserError(f"latent: one of the chosen latents of {sae_id} has no decoder direction", "latent")
    if control_seed is not None:
        random = [_random_rows(1, direction_ND, f"{control_seed} {sae_id} {i.latent}") for i in chosen]
        direction_ND = torch.cat(random) * direction_ND.norm(dim=1, keepdim=True)
    return SAEInterventions(
        sae, indices, latent_N, direction_ND,
        target_N=torch.tensor([i.target for i in chosen], device=sae.device),
        gain_N=torch.tensor([i.gain for i in chosen], device=sae.device))


def check_latent(sae_id: str, sae: Autoencoder, latent: int, field: str = "latent") -> None:
    """Raise UserError if the SAE has no such latent."""
    if latent >= sae.n_latents:
        raise UserError(
            f"latent: {sae_id} has {sae.n_latents:,} latents, 0 to {sae.n_latents - 1:,}; there is no {latent:,}",
            field)


def _removal(rows_RD: Tensor, hook: str, control_seed: int | None) -> Removal:
    """Return the removal of the span of the rows; nearly parallel directions count once."""
    _, size_R, basis_RD = torch.linalg.svd(rows_RD, full_matrices=False)
    basis_RD = basis_RD[size_R > 1e-4 * size_R[0]]
    if control_seed is None:
        return Removal(basis_RD, basis_RD)
    random_RD = _random_rows(len(basis_RD), basis_RD, f"{control_seed} {hook}")
    return Removal(basis_RD, torch.linalg.svd(random_RD, full_matrices=False)[2])


def _random_rows(n: int, like_ND: Tensor, name: str) -> Tensor:
    """Return `n` random rows of length 1, determined by `name`."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest())
    rows = torch.randn(n, like_ND.shape[1], generator=torch.Generator().manual_seed(seed)).to(like_ND)
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True)
    return unit


def check_saes(lm: LanguageModel, saes: Mapping[str, Autoencoder]) -> None:
    """Raise UserError (field `sae`) if an SAE was made for another language model."""
    for sae_id, sae in saes.items():
        wide = kind_of(sae.hook) in OWN_WIDTH
        if sae.layer >= lm.info.n_layers or (not wide and sae.d_model != lm.info.d_model):
            raise UserError(
                f"sae: {sae_id} reads block {sae.layer} of a model of width {sae.d_model}, but {lm.info.name} has "
                f"{lm.info.n_layers} blocks of width {lm.info.d_model}", "sae")


def prompt_ids(lm: LanguageModel, request: SteerRequest, saes: Iterable[Autoencoder] = ()) -> list[int]:
    """Return BOS and the prompt's tokens, with markup if the request or else one of `saes` says so.

    Raises UserError (field `prompt`, `chat` or `length`) if they do not fit into the model's context.
    """
    if request.chat:
        ids = lm.chat_ids([message.model_dump() for message in request.chat])
    else:
        markup = any(sae.reads_markup for sae in saes) if request.markup is None else request.markup
        ids = [*lm.start, *lm.encode(request.prompt, markup=markup)]
    check_room(len(ids), request.sampling.length, lm.info.n_ctx, lm.info.name)
    return ids
