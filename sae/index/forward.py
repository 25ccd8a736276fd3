"""Forward passes of the language model and the SAE, with the latents that fire on each token.

*Counted* tokens are all real positions but BOS and those that are left out.

Shapes: P contexts, S positions, B tokens, N firings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.data.activations import context_batches
from sae.data.corpus import Corpus
from sae.data.left_out import NOTHING, LeftOut
from sae.index.token_classes import TokenClasses
from sae.kernels.codes import Codes
from sae.lm.bridge import LanguageModel
from sae.lm.fast_reader import Read, reader
from sae.store.records import CLASSES

_TOKENS = 8192  # per forward pass on a GPU
_CPU_TOKENS = 2048  # per forward pass on a CPU, so that the outputs of a layer stay in the cache


@dataclass
class Firings:
    """The codes of a piece of text as triplets, in the order of the text, with facts about each firing's token.

    All columns are int32 except values (float32) and classes (int16).
    """

    latent_N: Tensor
    value_N: Tensor
    context_N: Tensor
    position_N: Tensor
    token_N: Tensor
    previous_N: Tensor
    next_N: Tensor  # the following token, −1 at the end of a context
    l0_N: Tensor  # active latents on the firing's token
    classes_N: Tensor  # the token's classes, bit by bit in the order of `CLASSES`

    def counted(self) -> Firings:
        """Return the firings on counted tokens, which are all but those on BOS."""
        kept = (self.position_N > 0).nonzero().squeeze(1)
        return Firings(*(column.index_select(0, kept) for column in vars(self).values()))


@dataclass
class Misses:
    """Near misses: pairs that nearly fired, with their pre-activations, in contexts where the latent never fires."""

    latent_N: Tensor
    value_N: Tensor
    context_N: Tensor
    position_N: Tensor


@dataclass
class Tokens:
    """The tokens of a piece of text, BOS included.  `x_BD` is the SAE's target."""

    context_B: Tensor
    position_B: Tensor
    token_B: Tensor
    previous_B: Tensor
    next_B: Tensor  # −1 at the end of a context
    classes_B: Tensor
    l0_B: Tensor
    x_BD: Tensor
    error_B: Tensor  # ‖x − x_hat‖²

    @property
    def n_contexts(self) -> int:
        return int((self.position_B == 0).sum())


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """One forward pass over some contexts: the firings, the tokens and the near misses, on the CPU."""

    firings: Firings
    tokens: Tokens
    misses: Misses
    left_out_B: Tensor | None = None  # which of the tokens are left out; None if these are gone already

    def counted(self) -> ForwardPass:
        """Return the pass with the counted firings alone, of a pass with all firings; left-out tokens are gone."""
        if self.left_out_B is None or not bool(self.left_out_B.any()):
            return replace(self, firings=self.firings.counted(), left_out_B=None)
        out_N = self.left_out_B.repeat_interleave(self.tokens.l0_B)
        firings = Firings(*(column[~out_N] for column in vars(self.firings).values()))
        tokens = Tokens(*(column[~self.left_out_B] for column in vars(self.tokens).values()))
        return ForwardPass(firings.counted(), tokens, self.misses)


T = TypeVar("T", Firings, Tokens, Misses)


def joined(parts: Sequence[T]) -> T:
    """Concatenate the columns of all parts."""
    return type(parts[0])(*(torch.cat(column) for column in zip(*(vars(part).values() for part in parts), strict=True)))


class Encoder:
    """A language model up to the SAE's site and the SAE, over contexts of a corpus, for one thread at a time.

    `near` is the largest share of the way to firing that a near miss may lack; 0 finds no near misses.  `read` reads
    the activations at the SAE's sites (None: a reader that is chosen at the first pass).
    """

    def __init__(
        self, lm: LanguageModel, sae: Autoencoder, corpus: Corpus, near: float = 0.0, left_out: LeftOut = NOTHING,
        read: Read | None = None,
    ) -> None:
        self._lm, self._sae, self._corpus, self._near, self._left_out = lm, sae, corpus, near, left_out
        self._classes = TokenClasses.of(lm.vocabulary()[0])
        self._read = read or reader(lm, sites_of(sae))
        self._most = _CPU_TOKENS if lm.device.type == "cpu" else _TOKENS

    def passes(self, contexts: np.ndarray, among: int = 1) -> list[np.ndarray]:
        """Split the contexts into as few passes of equal size as `among` encoders can share evenly."""
        size = max(1, self._most // self._corpus.context_length)
        n = -(-len(contexts) // (size * among)) * among
        return np.array_split(contexts, max(1, min(n, len(contexts)))) if len(contexts) else []

    def __call__(self, contexts: np.ndarray, *, bos: bool) -> ForwardPass:
        """Make one forward pass: firings, tokens, and near misses on counted tokens.

        With `bos` it holds all firings and all tokens, and marks those that are left out.  Without it, the firings are
        those on counted tokens, and the tokens are the counted ones and BOS.
        """
        device, sae = self._lm.device, self._sae
        (rows, tokens_PS, real_PS), = context_batches(self._corpus, contexts, max_tokens=self._most)
        real_on_device = real_PS.to(device)
        read_BD, *rest = (x_PSD[real_on_device] for x_PSD in self._read(tokens_PS.to(device)))
        x_BD = rest[0] if rest else read_BD
        normalized = sae.normalizer.apply(read_BD)
        codes, silent = sae.codes_and_misses(read_BD, self._near, normalized)
        error_B = (x_BD - sae.decode(codes, read_BD, normalized)).square().sum(dim=1)
        row_B, position_B = real_PS.nonzero(as_tuple=True)
        tokens = self._tokens(torch.from_numpy(rows)[row_B], position_B, tokens_PS, real_PS,
                              codes.l0_B().cpu(), x_BD.cpu(), error_B.cpu())
        counted_B = position_B.to(device) > 0
        left_out_B = torch.zeros_like(counted_B)
        if self._left_out:
            left_out_B = self._left_out.mask(read_BD, tokens_PS.to(device)[real_on_device]) & counted_B
            counted_B = counted_B & ~left_out_B
        silent = _where_silent(silent, codes, row_B.to(device), counted_B)
        whole = ForwardPass(_firings(codes if bos or self._left_out else codes.where(counted_B[codes.token_N]), tokens),
                            tokens, _misses(silent, tokens), left_out_B.cpu() if self._left_out else None)
        return whole.counted() if self._left_out and not bos else whole

    def _tokens(
        self, context_B: Tensor, position_B: Tensor, tokens_PS: Tensor, real_PS: Tensor, *computed: Tensor
    ) -> Tokens:
        next_PS = torch.full_like(tokens_PS, -1)
        next_PS[:, :-1] = torch.where(real_PS[:, 1:], tokens_PS[:, 1:], -1)
        bits_C = 1 << torch.arange(len(CLASSES), dtype=torch.int16)
        classes_PS = (self._classes.at(tokens_PS) * bits_C[:, None, None]).sum(dim=0, dtype=torch.int16)
        return Tokens(context_B, position_B, *(column_PS[real_PS] for column_PS in (
            tokens_PS, torch.roll(tokens_PS, 1, dims=1), next_PS, classes_PS)), *computed)


def sites_of(sae: Autoencoder) -> list[str]:
    """Return the hook points that an encoder reads: the SAE's input, and its target if that is another one."""
    return list(dict.fromkeys([sae.hook, sae.out_hook]))


def _firings(codes: Codes, tokens: Tokens) -> Firings:
    at_N = codes.token_N.cpu()

    def at(column_B: Tensor) -> Tensor:
        return column_B.index_select(0, at_N)

    return Firings(
        codes.latent_N.int().cpu(), codes.value_N.cpu(), at(tokens.context_B.int()), at(tokens.position_B.int()),
        at(tokens.token_B.int()), at(tokens.previous_B.int()), at(tokens.next_B.int()), at(tokens.l0_B.int()),
        at(tokens.classes_B))


def _misses(silent: Codes, tokens: Tokens) -> Misses:
    at_N = silent.token_N.cpu()
    return Misses(silent.latent_N.cpu(), silent.value_N.cpu(), tokens.context_B[at_N], tokens.position_B[at_N])


def _where_silent(misses: Codes, codes: Codes, row_B: Tensor, counted_B: Tensor) -> Codes:
    """Return the near misses on counted tokens in those rows of a pass where the latent never fires."""
    counted_N = counted_B[codes.token_N]
    fires_PL = torch.zeros(int(row_B[-1]) + 1, codes.n_latents, dtype=torch.bool, device=row_B.device)
    fires_PL[row_B[codes.token_N[counted_N]], codes.latent_N[counted_N]] = True
    fires = fires_PL[row_B[misses.token_N], misses.latent_N]
    return misses.where(~fires & counted_B[misses.token_N])
