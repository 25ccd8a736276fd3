"""A language model, texts and SAEs so small that everything about them can be computed by hand.

The model's residual stream is a table look-up: it depends on a token, the one before it and the
position.  All of its numbers, and the SAE's encoder, are multiples of 1/8, small enough that
float32 holds every product and sum exactly.  So results do not depend on how the work is divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.data.corpus import Corpus
from sae.lm.load_settings import LoadSettings
from sae.lm.model_info import ModelInfo

V, D = 29, 6


def eighths(generator: torch.Generator, *shape: int, reach: int = 16) -> Tensor:
    """Draw random multiples of 1/8 between -reach/8 and reach/8."""
    return torch.randint(-reach, reach + 1, shape, generator=generator) / 8


class ToyModel:
    """A stand-in for `LanguageModel` made of look-up tables."""

    bos_id = 0
    dtype = rounding = torch.float32
    format_name, settings = "float32", LoadSettings()
    device = torch.device("cpu")
    info = ModelInfo("toy", "toy", "toy", True, 3, D, 512, V)

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.token_VD, self.before_VD = eighths(generator, V, D), eighths(generator, V, D, reach=8)
        self.position_SD = eighths(generator, 512, D, reach=4)
        unembedding_DV = torch.randn(D, V, generator=generator)
        self.unembedding_DV = unembedding_DV - unembedding_DV.mean(dim=1, keepdim=True)
        self.tokens_read = 0

    def activations(self, tokens_PS: Tensor, hook: str, *, autocast: bool = False) -> Tensor:
        self.tokens_read += tokens_PS.numel()
        x_PSD = self.token_VD[tokens_PS] + self.position_SD[: tokens_PS.shape[1]]
        x_PSD[:, 1:] += self.before_VD[tokens_PS[:, :-1]]
        return x_PSD

    def share_weights(self) -> ToyModel:
        return self

    def activations_at(self, tokens_PS: Tensor, hooks: list[str], *, autocast: bool = False) -> list[Tensor]:
        return [self.activations(tokens_PS, hook) for hook in hooks]

    def vocabulary(self) -> tuple[list[bytes], list[bool]]:
        return [f"t{i}".encode() for i in range(V)], [i == self.bos_id for i in range(V)]

    def reads_as(self, other: ToyModel, hooks: Sequence[str]) -> bool:
        return True

    def unembedding(self, hook: str = "") -> Tensor:
        return self.unembedding_DV


def corpus_of(tokens: np.ndarray, length: np.ndarray, held_out: np.ndarray | None = None) -> Corpus:
    """Make a corpus in memory; every third context begins another document."""
    n, context_length = tokens.shape
    doc = np.arange(n, dtype=np.int32) // 3
    offset = (np.arange(n, dtype=np.int64) % 3) * (context_length - 1)
    return Corpus(
        Path("toy-corpus"), tokens.astype(np.uint16), length.astype(np.int32), doc, offset,
        [f"document {i}" for i in range(int(doc[-1]) + 1)],
        np.zeros(n, dtype=np.bool_) if held_out is None else held_out, {"fingerprint": "f", "text": "toy"})


def toy_corpus(n_contexts: int = 60, context_length: int = 16, seed: int = 0) -> Corpus:
    """Make contexts of all lengths from BOS and one token; some repeat others, and some tokens are rare."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, V) ** 1.3
    tokens = rng.choice(np.arange(1, V), (n_contexts, context_length), p=share / share.sum())
    tokens[n_contexts // 2 :: 3] = tokens[: len(tokens[n_contexts // 2 :: 3])]
    length = rng.integers(2, context_length + 1, n_contexts)
    length[::2] = context_length
    length[1] = 2
    tokens[:, 0] = 0
    tokens[np.arange(context_length) >= length[:, None]] = 0
    return corpus_of(tokens, length, np.arange(n_contexts) % 4 == 3)


def toy_sae(
    architecture: str = "batch_topk", normalize: str = "none", n_latents: int = 24, k: int = 3, seed: int = 0,
    threshold: float = 5.0,
) -> Autoencoder:
    """Make a random SAE with one latent that never fires (5) and one that always fires (7)."""
    generator = torch.Generator().manual_seed(seed)
    W_dec_LD = torch.randn(n_latents, D, generator=generator)
    tensors = {"W_enc": eighths(generator, n_latents, D), "b_enc": eighths(generator, n_latents),
               "W_dec": W_dec_LD / W_dec_LD.norm(dim=1, keepdim=True), "b_dec": eighths(generator, D, reach=2)}
    tensors["b_enc"][5], tensors["b_enc"][7] = -1000.0, 200.0
    if architecture == "batch_topk":
        tensors["threshold"] = torch.tensor([threshold])
    config: dict[str, Any] = {
        "schema_version": 1, "id": "toy/sae", "model": {"name": "toy", "id": "toy"},
        "site": {"layer": 1, "hook": "blocks.1.hook_resid_post"}, "architecture": architecture,
        "n_latents": n_latents, "d_model": D, "k": k, "normalize": normalize, "weight_processing": "raw",
        "bos": {"prepended": True, "trained_on": True}, "context_length": 16,
        "threshold": {"trained": threshold} if architecture == "batch_topk" else None, "metrics": {}, "training": {}}
    return Autoencoder(tensors, config)
