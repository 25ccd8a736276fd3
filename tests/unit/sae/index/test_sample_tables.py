"""Whole contexts with their strongest latents, against sorting by hand."""

from __future__ import annotations

import numpy as np
import torch

from sae.index.forward import Encoder
from sae.index.l0_extremes import Extremes
from sae.index.sample_tables import LATENTS, SAMPLES, Strongest, sample_tables
from tests.toys import ToyModel, toy_corpus, toy_sae

CORPUS = toy_corpus(60)


def test_the_strongest_latents_of_every_position_are_listed() -> None:
    sae = toy_sae(threshold=0.0)  # many latents fire
    one = Encoder(ToyModel(), sae, CORPUS)(np.arange(60), bos=True)  # type: ignore[arg-type]
    found = Strongest.of(one.firings, one.tokens)
    assert found.contexts == one.tokens.n_contexts
    at = 0
    listed = [found.value_N[end - size : end].tolist() for size, end in zip(
        found.l0_B.clamp(max=LATENTS).tolist(), found.l0_B.clamp(max=LATENTS).cumsum(0).tolist(), strict=True)]
    for l0, values in zip(found.l0_B.tolist(), listed, strict=True):
        here = sorted(one.firings.value_N[at : at + l0].tolist(), reverse=True)
        assert values == here[:LATENTS]
        at += l0
    assert at == len(one.firings.value_N)
    assert found.l0_B.max() > LATENTS


def test_contexts_that_were_read_before_are_not_read_again_and_give_the_same_tables() -> None:
    lm, sae, contexts = ToyModel(), toy_sae(), np.random.default_rng(0).permutation(60)
    extremes = Extremes(torch.tensor([5, 9]), torch.tensor([3, 4]), torch.tensor([1, 9]))
    encoder = Encoder(ToyModel(), sae, CORPUS)  # type: ignore[arg-type]
    first = [encoder(part, bos=True) for part in (contexts[:7], contexts[7:SAMPLES])]

    def made(read: list[Strongest]) -> dict[str, dict[str, list[object]]]:
        reader = Encoder(lm, sae, CORPUS)  # type: ignore[arg-type]
        tables = sample_tables(reader, CORPUS, contexts, extremes, read, lambda: None)
        return {name: table.to_pydict() for name, table in tables.items()}

    whole = made([])
    read_by_then = lm.tokens_read
    assert made([Strongest.of(one.firings, one.tokens) for one in first]) == whole
    assert lm.tokens_read - read_by_then < read_by_then / 4
    assert whole["sample"]["ctx"] == [*contexts[:SAMPLES], 5, 9]
    assert whole["sample"]["kind"] == ["any"] * SAMPLES + ["fewest"] * 2
    length = [int(CORPUS.length[ctx]) for ctx in whole["sample"]["ctx"]]
    assert [len(tokens) for tokens in whole["sample"]["tokens"]] == length
    assert whole["sample_latent"]["position"] == [p for n in length for p in range(n)]
