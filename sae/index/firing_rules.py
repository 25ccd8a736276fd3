"""A short rule for each latent ("fires on `raise`"), with its precision and recall on held-out contexts.

A candidate rule names a few tokens, of which the token itself, the one before or the one after must be
one; or it names a class of positions (`sae.index.token_classes`).  A hash divides the contexts into two
halves.  The rule with the best F1 is found on one half and scored on the other.

    precision  the share of the positions named by the rule on which the latent fires
    recall     the share of the latent's firings that the rule names
    F1         their harmonic mean

Shapes: L latents, V vocabulary, C classes, N (latent, token) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae.index.token_counts import PairCounts
from sae.kernels.segments import rank_within

KINDS = ("token", "previous", "next", "class")
MAX_TOKENS = 5  # vocabulary entries that one rule may name
MIN_FIRINGS = 10  # firings needed in either half to find and score a rule
_MIN_PAIR = 2  # firings on a token before a rule may name it


@dataclass
class Counts:
    """Firings in the half that rules are found on (row 0) and the half that they are scored on (row 1)."""

    firings_2L: Tensor
    pairs: dict[str, PairCounts]  # by kind of rule: token, previous, next
    base_2V: dict[str, Tensor]  # by kind of rule: positions whose (own, previous, next) token each token is
    class_2LC: Tensor  # firings on each class
    class_base_2C: Tensor  # positions of each class


@dataclass
class Rules:
    """The rule of each latent.  `kind_L` is −1 where there is none, and `token_LK` is padded with −1."""

    kind_L: Tensor
    token_LK: Tensor
    class_L: Tensor
    precision_L: Tensor  # on the half that the rule was not found on
    recall_L: Tensor

    @property
    def f1_L(self) -> Tensor:
        return _f1(self.precision_L, self.recall_L)


def find_rules(counts: Counts) -> Rules:
    """Find the best rule of every latent that fires often enough in both halves."""
    L = counts.firings_2L.shape[1]
    enough_L = (counts.firings_2L >= MIN_FIRINGS).all(dim=0)
    best = Rules(torch.full((L,), -1), torch.full((L, MAX_TOKENS), -1), torch.full((L,), -1),
                 torch.zeros(L, dtype=torch.float64), torch.zeros(L, dtype=torch.float64))
    best_f1_L = torch.zeros(L, dtype=torch.float64)
    candidates = [_token_rule(counts, kind) for kind in KINDS[:3]] + [_class_rule(counts)]
    for number, (fit_f1_L, rule) in enumerate(candidates):
        better_L = enough_L & (fit_f1_L > best_f1_L)
        best_f1_L[better_L] = fit_f1_L[better_L]
        for name, value in vars(rule).items():
            getattr(best, name)[better_L] = value[better_L]
        best.kind_L[better_L] = number
    return best


def _token_rule(counts: Counts, kind: str) -> tuple[Tensor, Rules]:
    """Find the few tokens of highest precision whose union has the best F1 on the first half."""
    pairs, base_2V = counts.pairs[kind], counts.base_2V[kind].double()
    L, V = counts.firings_2L.shape[1], base_2V.shape[1]
    latent_N, token_N = pairs.key_N // V, pairs.key_N % V
    held_N = pairs.held_N.double()
    fit_N = pairs.n_N.double() - held_N
    seen = (fit_N >= _MIN_PAIR).nonzero().squeeze(1)
    precision_N = fit_N[seen] / base_2V[0, token_N[seen]]
    seen = seen[torch.argsort(precision_N, descending=True, stable=True)]
    seen = seen[torch.argsort(latent_N[seen], stable=True)]
    rank_N = rank_within(latent_N[seen])
    seen, rank_N = seen[rank_N < MAX_TOKENS], rank_N[rank_N < MAX_TOKENS]

    def table(value_N: Tensor) -> Tensor:  # [L, MAX_TOKENS]
        out = torch.zeros(L, MAX_TOKENS, dtype=value_N.dtype)
        out[latent_N[seen], rank_N] = value_N
        return out

    token = token_N[seen]
    fires_LK, named_LK = table(fit_N[seen]).cumsum(1), table(base_2V[0, token]).cumsum(1)
    f1_LK = _f1(fires_LK / named_LK.clamp(min=1), fires_LK / counts.firings_2L[0].double().clamp(min=1)[:, None])
    fit_f1_L, last_L = f1_LK.max(dim=1)  # the first of equal values, so the shortest rule
    chosen_LK = torch.arange(MAX_TOKENS) <= last_L[:, None]
    chosen_LK &= table(torch.ones_like(token)) > 0
    precision_L, recall_L = _score((table(held_N[seen]) * chosen_LK).sum(1),
                                   (table(base_2V[1, token]) * chosen_LK).sum(1), counts.firings_2L[1])
    token_LK = torch.where(chosen_LK, table(token), -1)
    none_L = torch.full((L,), -1)
    return fit_f1_L, Rules(none_L, token_LK, none_L, precision_L, recall_L)


def _class_rule(counts: Counts) -> tuple[Tensor, Rules]:
    L = counts.firings_2L.shape[1]
    fires_LC, base_C = counts.class_2LC[0].double(), counts.class_base_2C[0].double()
    f1_LC = _f1(fires_LC / base_C.clamp(min=1), fires_LC / counts.firings_2L[0].double().clamp(min=1)[:, None])
    fit_f1_L, class_L = f1_LC.max(dim=1)
    held_L = counts.class_2LC[1].gather(1, class_L[:, None]).squeeze(1).double()
    precision_L, recall_L = _score(held_L, counts.class_base_2C[1][class_L].double(), counts.firings_2L[1])
    return fit_f1_L, Rules(torch.full((L,), -1), torch.full((L, MAX_TOKENS), -1), class_L, precision_L, recall_L)


def _score(fires_L: Tensor, named_L: Tensor, firings_L: Tensor) -> tuple[Tensor, Tensor]:
    return fires_L / named_L.clamp(min=1), fires_L / firings_L.double().clamp(min=1)


def _f1(precision: Tensor, recall: Tensor) -> Tensor:
    return 2 * precision * recall / (precision + recall).clamp(min=1e-12)
