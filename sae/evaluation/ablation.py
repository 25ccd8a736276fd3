"""The ablation measure: what the language model loses where a latent is switched off at one token.

    effective share  (‖v‖₁ / ‖v‖₂)² / (V·T) of the changes v of the logits at T positions from that token on, with the
                     median over the vocabulary subtracted at each: 1 if the change is even over all logits, 1/(V·T)
                     if a single logit changes (Gao et al. 2024, section 4.4, "ablation sparsity")
    comparison       one channel of the ablated activations set to zero at the same token, and a random direction
                     subtracted with the length that the latent adds

The firings are of random latents that fire, one firing a latent, so that all latents weigh the same.

Shapes: P firings in a pass, S positions, T positions that are read, V vocabulary, D width, L latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.evaluation.intervals import jackknife, mean_of
from sae.evaluation.measure import Progress, Result, Subject, Value
from sae.evaluation.reading import first_contexts, read_tokens, stages
from sae.kernels.device import wide
from sae.lm.bridge import Edit

POSITIONS = 16
KINDS = ("latent", "channel", "random")
DEFINITIONS: dict[str, str] = {
    "share_latent":
        "Mean effective share of the logits that change if a latent is switched off at one token: the lower, the more "
        "specific are its effects.",
    "share_channel":
        "Mean effective share of the logits that change if a random channel of the activations is set to zero.",
    "share_random":
        "Mean effective share of the logits that change if a random direction is subtracted, with the length that the "
        "latent adds.",
    "kl_latent": "Mean KL divergence of the next token, unchanged ‖ latent switched off, in nats.",
    "kl_random": "Mean KL divergence of the next token, unchanged ‖ random direction of the same length, in nats.",
    "kl_ratio": "KL of the latents divided by KL of random directions: above 1 if latents matter more than noise.",
    "kl_wins": "Share of firings at which the latent's KL is higher than the random direction's.",
    "delta_ce_latent": "Mean rise in cross-entropy of the true next token with the latent switched off, in nats.",
    "delta_ce_random":
        "Mean rise in cross-entropy of the true next token for a random direction of the same length, in nats.",
}
_LOGITS = 1 << 24  # entries of the logits of one pass: 64 MiB


@dataclass(frozen=True)
class Firing:
    """One firing of a latent."""

    latent: int
    context: int
    position: int
    length: float  # of the vector that the latent adds


@dataclass(frozen=True)
class Ablation:
    """Sparsity of ablation effects, and their size compared with random directions."""

    n_firings: int = 128
    n_tokens: int = 20_000  # among whose firings they are drawn
    name: str = "ablation"

    def refuse(self, subject: Subject) -> str | None:
        return None if len(subject.contexts) else "ablation: there is no held-out context to read"

    def run(self, subject: Subject, progress: Progress) -> Result:
        drawing, ablating = stages(progress, 1, 3)
        firings = draw_firings(subject, self.n_firings, self.n_tokens, drawing)
        rows = effects(subject, firings, ablating)
        shares = [mean_of(f"share_{kind}", [row["share"][kind] for row in rows], share=True) for kind in KINDS]
        kl = {kind: np.array([row["kl"][kind] for row in rows]) for kind in KINDS}

        def ratio(i: int | None) -> dict[str, float | None]:
            latent, random = (float(np.delete(kl[kind], [] if i is None else i).sum()) for kind in ("latent", "random"))
            return {"kl_ratio": latent / random if random else None}

        found = jackknife(ratio, len(rows))["kl_ratio"]
        values = [
            *shares, *(mean_of(f"kl_{kind}", kl[kind].tolist()) for kind in ("latent", "random")),
            Value("kl_ratio", found.value, found.low, found.high, len(rows)),
            mean_of("kl_wins", (kl["latent"] > kl["random"]).astype(float).tolist(), share=True),
            *(mean_of(f"delta_ce_{kind}", [row["delta_ce"][kind] for row in rows]) for kind in ("latent", "random"))]
        return Result(self.name, tuple(values), {"positions": POSITIONS, "firings": rows})


def draw_firings(subject: Subject, n: int, n_tokens: int, progress: Progress) -> list[Firing]:
    """Draw random latents among those that fire, and one random firing of each that has a next token."""
    rng, L = np.random.default_rng(subject.seed), subject.sae.n_latents
    key_L, at_L = np.full(L, -1.0), np.zeros((L, 2), dtype=np.int64)
    length_L = np.zeros(L)
    for batch in read_tokens(subject, first_contexts(subject, n_tokens), progress):
        codes = subject.sae.codes(batch.x_ND)
        token_N, latent_N = codes.token_N.cpu().numpy(), codes.latent_N.cpu().numpy()
        added_N = (codes.value_N * subject.sae.scale(batch.x_ND)[codes.token_N, 0]).cpu().numpy()
        context_N, position_N = batch.context_N.numpy()[token_N], batch.position_N.numpy()[token_N]
        draw_N = rng.random(len(token_N))
        better_N = (position_N < subject.corpus.length[context_N] - 1) & (draw_N > key_L[latent_N])
        kept = np.flatnonzero(better_N)
        kept = kept[np.argsort(draw_N[kept])]  # of several firings of a latent, the last assignment stays
        key_L[latent_N[kept]] = draw_N[kept]
        at_L[latent_N[kept]] = np.column_stack([context_N[kept], position_N[kept]])
        length_L[latent_N[kept]] = added_N[kept]
    chosen = rng.permutation(np.flatnonzero(key_L >= 0))[:n]
    return [Firing(int(i), int(at_L[i, 0]), int(at_L[i, 1]), float(length_L[i])) for i in chosen]


def effects(subject: Subject, firings: Sequence[Firing], progress: Progress) -> list[dict[str, Any]]:
    """Return the effects of each firing's ablation: effective share, KL and ΔCE, by kind of ablation."""
    generator = torch.Generator().manual_seed(subject.seed)
    width = subject.sae.d_model
    random_ND = torch.randn(len(firings), width, generator=generator)
    random_ND /= random_ND.norm(dim=1, keepdim=True)
    channel_N = torch.randint(width, (len(firings),), generator=generator)
    per_pass = max(1, _LOGITS // (subject.corpus.context_length * subject.model.info.d_vocab))
    order = sorted(range(len(firings)), key=lambda i: firings[i].position)  # so that a pass needs little padding
    out: list[dict[str, Any]] = [{} for _ in firings]
    for start in range(0, len(order), per_pass):
        rows = order[start : start + per_pass]
        part = [firings[i] for i in rows]
        for i, found in zip(rows, _effects_of(subject, part, random_ND[rows], channel_N[rows]), strict=True):
            out[i] = found
        progress(min(start + per_pass, len(order)), len(order))
    return out


def _effects_of(
    subject: Subject, firings: Sequence[Firing], random_PD: Tensor, channel_P: Tensor
) -> list[dict[str, Any]]:
    lm, sae, corpus = subject.model, subject.sae, subject.corpus
    context_P = np.array([f.context for f in firings])
    at_P = torch.tensor([f.position for f in firings])
    end_P = torch.from_numpy(np.minimum(corpus.length[context_P], at_P.numpy() + POSITIONS).astype(np.int64))
    tokens_PS = torch.from_numpy(corpus.tokens[context_P, : int(end_P.max())].astype(np.int64))
    length_P1 = torch.tensor([[f.length] for f in firings], device=sae.device)
    latent_PD = length_P1 * sae.W_dec_LD[[f.latent for f in firings]]
    places = (torch.arange(len(firings), device=lm.device), at_P.to(lm.device))
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "latent": lambda x_PD: x_PD - latent_PD,
        "channel": lambda x_PD: x_PD.scatter(1, channel_P.to(x_PD.device)[:, None], 0.0),
        "random": lambda x_PD: x_PD - length_P1 * random_PD.to(x_PD.device)}
    clean = _read(lm.logits(tokens_PS.to(lm.device)), at_P, end_P)
    out: list[dict[str, Any]] = [
        {"latent": f.latent, "context": f.context, "position": f.position, "share": {}, "kl": {}, "delta_ce": {}}
        for f in firings]
    next_P = tokens_PS[torch.arange(len(firings)), at_P + 1].tolist()
    for kind, change in changes.items():
        changed = _read(lm.logits(tokens_PS.to(lm.device), {sae.out_hook: _at(places, change)}), at_P, end_P)
        for row, before_TV, after_TV, token in zip(out, clean, changed, next_P, strict=True):
            p_V, q_V = wide(before_TV[0]).log_softmax(0), wide(after_TV[0]).log_softmax(0)
            row["share"][kind] = effective_share(after_TV - before_TV)
            row["kl"][kind] = float((p_V.exp() * (p_V - q_V)).sum())
            row["delta_ce"][kind] = float(p_V[token] - q_V[token])
    return out


def _at(places: tuple[Tensor, Tensor], change: Callable[[Tensor], Tensor]) -> Edit:
    """Return an edit that changes the activations [P, D] at one position of each text."""
    def edit(x_PSD: Tensor) -> Tensor:
        out, found = x_PSD.clone(), x_PSD[places]
        out[places] = change(found.flatten(1).float()).reshape(found.shape).to(out.dtype)  # concatenates heads
        return out

    return edit


def _read(logits_PSV: Tensor, at_P: Tensor, end_P: Tensor) -> list[Tensor]:
    """Return the logits [T, V] of each text from its position on."""
    return [logits_SV[a:b].cpu() for logits_SV, a, b in zip(logits_PSV, at_P.tolist(), end_P.tolist(), strict=True)]


def effective_share(change_TV: Tensor) -> float:
    """Return (‖v‖₁ / ‖v‖₂)² / (V·T) of the change without its median at each position; 1/(V·T) if nothing changes."""
    v_TV = wide(change_TV) - wide(change_TV).median(dim=1, keepdim=True).values
    square, n = float(v_TV.square().sum()), math.prod(v_TV.shape)
    return float(v_TV.abs().sum()) ** 2 / square / n if square else 1 / n
