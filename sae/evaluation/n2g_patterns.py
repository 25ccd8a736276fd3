"""Patterns of tokens with wildcards that explain where a latent fires (Foote et al. 2023, "N2G"; Gao et al. 2024, 4.3).

A pattern comes from one text that ends where the latent fires.  It is made of three kinds of question to the SAE:

    which is the shortest end of the text on which the latent keeps at least half of its activation?
    does it keep half with another token in front?  If not, the pattern is bound to the start of a text.
    by how much does the activation fall if a token is replaced?  If by less than half, that token is a wildcard.

The original walks a trie and takes an exact token before a wildcard without a way back, so it misses matches.  Here a
pattern matches wherever all of its tokens do.

Shapes: P contexts, S positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sae.evaluation.measure import Subject

WILDCARD = -1
KEPT = 0.5  # share of the activation that has to remain
_BATCH_TOKENS = 8192
Ask = Callable[[Sequence[Sequence[int]], Sequence[int]], NDArray[np.float64]]


@dataclass(frozen=True)
class Pattern:
    """Tokens before and including the firing, `WILDCARD` for any token; `at_start` binds it to the text's start."""

    tokens: tuple[int, ...]
    at_start: bool


@dataclass(frozen=True)
class Text:
    """A text without BOS that ends where a latent fires."""

    latent: int
    tokens: tuple[int, ...]
    activation: float


def end_activations(subject: Subject) -> Ask:
    """Return a function that computes a latent's activation on the last token of each text, which BOS precedes."""
    def ask(texts: Sequence[Sequence[int]], latents: Sequence[int]) -> NDArray[np.float64]:
        lm, sae, out = subject.model, subject.sae, np.zeros(len(texts))
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        while order:
            size = max(1, _BATCH_TOKENS // (len(texts[order[-1]]) + 1))
            rows, order = order[-size:], order[:-size]
            last = torch.tensor([len(texts[i]) for i in rows])
            tokens_PS = torch.full((len(rows), int(last.max()) + 1), lm.bos_id)
            for row, i in enumerate(rows):
                tokens_PS[row, 1 : len(texts[i]) + 1] = torch.tensor(texts[i])
            x_PSD = lm.activations(tokens_PS.to(lm.device), sae.hook)
            codes = sae.codes(x_PSD[torch.arange(len(rows)), last])
            wanted = torch.tensor([latents[i] for i in rows], device=codes.latent_N.device)
            found = codes.where(codes.latent_N == wanted[codes.token_N])
            out[np.array(rows)[found.token_N.cpu().numpy()]] = found.value_N.cpu().double().numpy()
        return out

    return ask


def find_patterns(texts: Sequence[Text], ask: Ask, pad: int, longest: int) -> list[Pattern | None]:
    """Return the pattern of each text, or None if no end of at most `longest` tokens keeps half of the activation.

    `pad` is the token that replaces others.
    """
    ends = [(i, size) for i, text in enumerate(texts) for size in range(1, min(longest, len(text.tokens)) + 1)]
    latent_of = [text.latent for text in texts]
    found = ask([texts[i].tokens[-size:] for i, size in ends], [latent_of[i] for i, _ in ends])
    size_of: dict[int, tuple[int, float]] = {}
    for (i, size), activation in zip(ends, found.tolist(), strict=True):
        if i not in size_of and activation >= KEPT * texts[i].activation:
            size_of[i] = (size, activation)
    kept = list(size_of)
    suffixes = {i: texts[i].tokens[-size_of[i][0] :] for i in kept}
    padded = ask([(pad, *suffixes[i]) for i in kept], [latent_of[i] for i in kept])
    at_start = {i: activation < KEPT * texts[i].activation for i, activation in zip(kept, padded.tolist(), strict=True)}
    masks = [(i, j) for i in kept for j in range(len(suffixes[i]))]
    masked = ask([(*suffixes[i][:j], pad, *suffixes[i][j + 1 :]) for i, j in masks], [latent_of[i] for i, _ in masks])
    tokens = {i: list(suffixes[i]) for i in kept}
    for (i, j), activation in zip(masks, masked.tolist(), strict=True):
        if 1 - activation / size_of[i][1] < 1 - KEPT:
            tokens[i][j] = WILDCARD
    return [_pattern(tokens[i], at_start[i]) if i in size_of else None for i in range(len(texts))]


def _pattern(tokens: list[int], at_start: bool) -> Pattern:
    """Return the pattern without wildcards at its front, which say nothing unless it is bound to the start."""
    while not at_start and len(tokens) > 1 and tokens[0] == WILDCARD:
        tokens = tokens[1:]
    return Pattern(tuple(tokens), at_start)


def matches(patterns: Sequence[Pattern], tokens_PS: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the positions at which a pattern ends, [P, S].  Position 0 is BOS, which no pattern covers."""
    out_PS = np.zeros(tokens_PS.shape, dtype=np.bool_)
    S = tokens_PS.shape[1]
    for pattern in set(patterns):
        n = len(pattern.tokens)
        if n >= S:
            continue
        hit = np.ones((len(tokens_PS), S - n), dtype=np.bool_)  # by where the pattern begins, from position 1 on
        for i, token in enumerate(pattern.tokens):
            if token != WILDCARD:
                hit &= tokens_PS[:, 1 + i : S - n + 1 + i] == token
        if pattern.at_start:
            hit[:, 1:] = False
        out_PS[:, n:] |= hit
    return out_PS
