"""Steering: a language model's text with the residual stream changed along SAE latents.

Every column of a run (`baseline`, `steered`) is decoded by the same code in forward passes of
its own, one sequence each.  Sharing a batch would be faster, but the rows of one matrix product
are not rounded alike (differences of 1e-5 in the logits were seen on CPU), and then strength 0
would not give the baseline token for token.

Shapes: P sequences, S positions, B = P·S, D d_model, N interventions of one SAE, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sae.autoencoder import Autoencoder
from sae.errors import UserError
from sae.lm import Cache, Edit, LanguageModel
from sae.steering_spec import Intervention, Sampling, SteerRequest, Where, check_room

Finish = Literal["length", "eos"]


@dataclass(frozen=True)
class _Group:
    """The interventions on latents of one SAE, as tensors.  `place_N`: their places in the request."""

    sae: Autoencoder
    place_N: list[int]
    latent_N: Tensor
    direction_ND: Tensor
    target_N: Tensor
    gain_N: Tensor

    def update(self, x_BD: Tensor, acts_BN: Tensor) -> Tensor:
        """What is added to the residual: (target + gain·a)·scale·d, summed over the latents, [B, D]."""
        return ((self.target_N + self.gain_N * acts_BN) @ self.direction_ND) * self.sae.scale(x_BD)


class Steering:
    """Interventions made ready for a language model: one edit for each layer that they touch.

    All activations at a layer are read from the residual as it arrives there, before any edit
    of that layer, so the additive modes may be summed.  Removed directions are projected out
    last, all together, so that their order does not matter.

    Raises UserError where an SAE lies at another layer or has no such latent.
    """

    def __init__(
        self, interventions: Sequence[Intervention], saes: Mapping[str, Autoencoder],
        where: Where | None = None, special_ids: Sequence[int] = (),
    ) -> None:
        self.interventions = list(interventions)
        self.where = where or Where()
        self.special_ids = torch.tensor(sorted(special_ids), dtype=torch.long)
        self._groups: dict[str, list[_Group]] = {}  # by hook point
        self._removed: dict[str, Tensor] = {}
        for sae_id in dict.fromkeys(i.sae for i in interventions):
            group = _group(sae_id, saes[sae_id], self.interventions)
            self._groups.setdefault(group.sae.out_hook, []).append(group)
        for hook, groups in self._groups.items():
            rows = [g.direction_ND[n] for g in groups for n, place in enumerate(g.place_N)
                    if self.interventions[place].mode == "remove"]
            if rows:
                self._removed[hook] = _orthonormal(torch.stack(rows))

    def mask(self, tokens_PS: Tensor, start: int, prompt_length: int) -> Tensor:
        """Whether each position is changed, [P, S]; the tokens stand at absolute positions start, start + 1, …"""
        position_S = torch.arange(start, start + tokens_PS.shape[1], device=tokens_PS.device)
        first = {"all": 0, "output": prompt_length, "from": self.where.start}[self.where.positions]
        mask_PS = (position_S >= first).expand(tokens_PS.shape)
        if not self.where.special:
            mask_PS = mask_PS & ~torch.isin(tokens_PS, self.special_ids.to(tokens_PS.device))
        return mask_PS

    def edits(self, mask_PS: Tensor, readings: dict[int, Tensor] | None = None) -> dict[str, Edit]:
        """The edits of one forward pass over the positions of `mask_PS`.

        During the pass, `readings[place]` becomes the activation [P, S] of the intervention's latent.
        """
        return {hook: self._edit(hook, mask_PS, readings if readings is not None else {})
                for hook in self._groups}

    def _edit(self, hook: str, mask_PS: Tensor, readings: dict[int, Tensor]) -> Edit:
        def edit(resid_PSD: Tensor) -> Tensor:
            x_BD = resid_PSD.reshape(-1, resid_PSD.shape[-1]).float()
            changed_BD = x_BD
            for group in self._groups[hook]:
                acts_BN = group.sae.activation_of(x_BD, group.latent_N)
                for n, place in enumerate(group.place_N):
                    readings[place] = acts_BN[:, n].view(mask_PS.shape)
                changed_BD = changed_BD + group.update(x_BD, acts_BN)
            if hook in self._removed:
                basis_RD = self._removed[hook]
                changed_BD = changed_BD - (changed_BD @ basis_RD.T) @ basis_RD
            # Left-alone positions keep their very bits.
            changed_PSD = changed_BD.view(resid_PSD.shape).to(resid_PSD.dtype)
            return torch.where(mask_PS[..., None], changed_PSD, resid_PSD)

        return edit


def _group(sae_id: str, sae: Autoencoder, interventions: Sequence[Intervention]) -> _Group:
    places = [place for place, i in enumerate(interventions) if i.sae == sae_id]
    chosen = [interventions[place] for place in places]
    for i in chosen:
        if i.layer != sae.layer:
            raise UserError(f"layer: {sae_id} reads block {sae.layer}, not {i.layer}", "layer")
        if i.latent >= sae.n_latents:
            raise UserError(
                f"latent: {sae_id} has {sae.n_latents:,} latents, 0 to {sae.n_latents - 1:,}; "
                f"there is no {i.latent:,}", "latent")
    latent_N = torch.tensor([i.latent for i in chosen], dtype=torch.long, device=sae.W_dec_LD.device)
    direction_ND = sae.W_dec_LD[latent_N].float()
    if not bool((direction_ND.norm(dim=1) > 0).all()):
        raise UserError(f"latent: {sae_id} has a latent without a decoder direction among those chosen", "latent")
    return _Group(
        sae, places, latent_N, direction_ND,
        target_N=torch.tensor([i.target for i in chosen], device=latent_N.device),
        gain_N=torch.tensor([i.gain for i in chosen], device=latent_N.device))


def _orthonormal(rows_RD: Tensor) -> Tensor:
    """An orthonormal basis of the rows' span; directions that are nearly the same count once."""
    _, size_R, basis_RD = torch.linalg.svd(rows_RD, full_matrices=False)
    kept_RD: Tensor = basis_RD[size_R > 1e-4 * size_R[0]]
    return kept_RD


# ---- sampling


def draw(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token.  `logits_V` is float32 on the CPU.

    Gumbel's trick, argmax(p / Exp(1) noise): two columns with the same generator state share the
    noise of every vocabulary entry, so they part only where the model's probabilities do.
    Raises UserError (field `strength`) where the model computed no numbers.
    """
    if bool(logits_V.isnan().any()):
        raise UserError("strength: the model's output is no longer a number at this strength; lower it", "strength")
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    scaled_V = logits_V / sampling.temperature
    if 0 < sampling.top_k < len(scaled_V):
        kth = scaled_V.topk(sampling.top_k).values[-1]
        scaled_V = scaled_V.masked_fill(scaled_V < kth, -torch.inf)
    probability_V = scaled_V.softmax(dim=0)
    if sampling.top_p < 1:
        probability_V = _nucleus(probability_V, sampling.top_p)
    noise_V = torch.empty_like(probability_V).exponential_(generator=generator)
    return int((probability_V / noise_V).argmax())


def _nucleus(probability_V: Tensor, top_p: float) -> Tensor:
    """The fewest likeliest tokens that hold `top_p` together; the others get 0."""
    ranked_V, order_V = probability_V.sort(descending=True, stable=True)
    # A token stays while those before it hold less than top_p, so one always stays.
    ranked_V = ranked_V.masked_fill(ranked_V.cumsum(dim=0) - ranked_V >= top_p, 0.0)
    return torch.zeros_like(probability_V).scatter_(0, order_V, ranked_V)


# ---- generation


@dataclass
class Column:
    """One text as it grows.  `acts[i]` belongs to the i-th token read, BOS first: a value per
    intervention, read before any edit of its layer.  The newest token is read one step later,
    so `acts` may be one shorter than prompt and output together."""

    name: str
    output: list[int] = field(default_factory=list)
    acts: list[list[float]] = field(default_factory=list)
    finish: Finish | None = None


class _Decoder:
    """Decodes one column, a token at a time, with a KV cache and a generator of its own."""

    def __init__(
        self, name: str, lm: LanguageModel, prompt_ids: Sequence[int], steering: Steering,
        sampling: Sampling, *, steered: bool,
    ) -> None:
        self.column = Column(name)
        self._lm, self._steering, self._sampling, self._steered = lm, steering, sampling, steered
        self._prompt_length = len(prompt_ids)
        self._pending = list(prompt_ids)
        self._cache: Cache | None = None
        self._generator = torch.Generator().manual_seed(sampling.seed)
        self._eos = lm.tokenizer.eos_token_id

    def advance(self) -> None:
        """Draw one more token.  The last one is read too, for its activations."""
        column = self.column
        token = draw(self._read(), self._sampling, self._generator)
        column.output.append(token)
        self._pending = [token]
        if self._sampling.stop_at_eos and token == self._eos:
            column.finish = "eos"
        elif len(column.output) == self._sampling.length:
            column.finish = "length"
        if column.finish:
            self._read()

    def _read(self) -> Tensor:
        """Read the pending tokens; the logits [V] after the last of them."""
        tokens_PS = torch.tensor([self._pending], device=self._lm.device)
        start = self._cache.length if self._cache else 0
        mask_PS = self._steering.mask(tokens_PS, start, self._prompt_length)
        if not self._steered:
            mask_PS = torch.zeros_like(mask_PS)
        readings: dict[int, Tensor] = {}
        logits_PSV, self._cache = self._lm.step(tokens_PS, self._cache, self._steering.edits(mask_PS, readings))
        acts_NS = torch.stack([readings[place][0] for place in range(len(readings))])
        self.column.acts += acts_NS.T.tolist()
        return logits_PSV[0, -1].cpu()


def check_saes(lm: LanguageModel, saes: Mapping[str, Autoencoder]) -> None:
    """Raise UserError (field `sae`) where an SAE does not fit the language model's residual stream."""
    for sae_id, sae in saes.items():
        if sae.d_model != lm.info.d_model or sae.layer >= lm.info.n_layers:
            raise UserError(
                f"sae: {sae_id} reads block {sae.layer} of a model of width {sae.d_model}; {lm.info.name} has "
                f"{lm.info.n_layers} blocks of width {lm.info.d_model}", "sae")


def prompt_ids(lm: LanguageModel, request: SteerRequest) -> list[int]:
    """BOS and the prompt's tokens.  Raises UserError (prompt, length) where the context is too short."""
    ids = [lm.bos_id, *lm.encode(request.prompt)]
    check_room(len(ids), request.sampling.length, lm.info.n_ctx, lm.info.name)
    return ids


def generate(
    lm: LanguageModel, prompt: Sequence[int], saes: Mapping[str, Autoencoder],
    interventions: Sequence[Intervention], where: Where, sampling: Sampling,
) -> Iterator[list[Column]]:
    """Decode `baseline` and `steered` side by side; yields both (the same objects) after each token.

    Closing the iterator stops at once.  `prompt` begins with BOS.
    """
    steering = Steering(interventions, saes, where, lm.tokenizer.all_special_ids)
    decoders = [_Decoder(name, lm, prompt, steering, sampling, steered=steered)
                for name, steered in (("baseline", False), ("steered", True))]
    columns = [decoder.column for decoder in decoders]
    while any(column.finish is None for column in columns):
        for decoder in decoders:
            if decoder.column.finish is None:
                decoder.advance()
        yield columns
