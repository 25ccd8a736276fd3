"""The language model with an SAE, as the reader that confirms that a latent is silent in a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sae.autoencoder.artefact import Autoencoder
from sae.lm.bridge import LanguageModel

_AT_ONCE = 32  # contexts per forward pass


class SaeReader:
    """Reads contexts with a language model and an SAE.  It must be used by one thread at a time."""

    def __init__(self, lm: LanguageModel, sae: Autoencoder) -> None:
        self._lm, self._sae = lm, sae

    @torch.no_grad()
    def activations(self, latent: int, contexts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the activations of a latent on every token of the contexts."""
        out: list[list[float]] = []
        number = torch.tensor([latent], device=self._sae.device)
        for i in range(0, len(contexts), _AT_ONCE):
            part = contexts[i : i + _AT_ONCE]
            longest = max(map(len, part))
            # Tokens after a context's end do not change the activations before it.
            tokens_PS = torch.tensor([[*row, *[self._lm.bos_id] * (longest - len(row))] for row in part])
            x_PSD = self._lm.activations(tokens_PS.to(self._lm.device), self._sae.hook)
            acts_PS = self._sae.activation_of(x_PSD.flatten(0, 1), number).view(len(part), longest)
            out += [row[: len(context)] for row, context in zip(acts_PS.tolist(), part, strict=True)]
        return out
