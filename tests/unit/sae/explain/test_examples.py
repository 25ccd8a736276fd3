"""Scoring examples of a synthetic build, whose every activation is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from sae.explain.evidence import evidence_of
from sae.explain.examples import ACTIVE, SORTS, ExampleSource
from sae.explain.excerpts import in_scoring_half
from sae.store.build import Build
from sae.store.schema import NEAR_BAND
from tests.builds import S, Synthetic


class DenseReader:
    """Reads the activations that the synthetic build was made from."""

    def __init__(self, synthetic: Synthetic) -> None:
        self._acts = synthetic.acts.reshape(-1, S, synthetic.acts.shape[1])
        self._row = {tuple(row): i for i, row in enumerate(synthetic.tokens.tolist())}
        self.read = 0

    def activations(self, latent: int, contexts: Sequence[Sequence[int]]) -> list[list[float]]:
        self.read += len(contexts)
        return [self._acts[self._row[tuple(tokens)], :, latent].tolist() for tokens in contexts]


def alive(build: Build) -> list[int]:
    return [latent for latent in range(build.n_latents) if not build.latent(latent).dead]  # type: ignore[union-attr]


def test_no_document_is_both_explained_from_and_scored_on(build: Build, synthetic: Synthetic) -> None:
    source = ExampleSource(build, DenseReader(synthetic))
    n_explained = n_scored = 0
    for latent in alive(build):
        found = build.latent(latent)
        assert found is not None
        evidence = evidence_of(build, found)
        examples = source.of(found, evidence.excerpts)
        both = [*examples.positives, *examples.negatives]
        explaining = {excerpt.document for excerpt in evidence.excerpts}
        scoring = {one.excerpt.document for one in both}
        assert not explaining & scoring
        assert all(in_scoring_half(document) for document in scoring)
        assert not any(in_scoring_half(document) for document in explaining)
        assert not {e.tokens for e in evidence.excerpts} & {one.excerpt.tokens for one in both}
        n_explained, n_scored = n_explained + len(explaining), n_scored + len(scoring)
    assert n_explained > 0
    assert n_scored > 0


def test_every_example_is_what_its_sort_says(build: Build, synthetic: Synthetic) -> None:
    acts = synthetic.acts.reshape(-1, S, synthetic.acts.shape[1])
    source, seen = ExampleSource(build, DenseReader(synthetic)), set()
    for latent in alive(build):
        found = build.latent(latent)
        assert found is not None
        examples = source.of(found, evidence_of(build, found).excerpts)
        assert examples.verified
        for one in [*examples.positives, *examples.negatives]:
            excerpt = one.excerpt
            assert excerpt.start is not None
            shown = slice(excerpt.start, excerpt.start + len(excerpt.tokens))
            row = acts[excerpt.ctx, shown, latent]
            assert synthetic.tokens[excerpt.ctx, shown].tolist() == list(excerpt.tokens)
            assert one.active == bool((row > 0).any()) == (one.sort == ACTIVE), (latent, one.sort)
            assert one.marked
            if one.active:
                assert one.marked == frozenset(np.nonzero(row > 0)[0].tolist())
            seen.add(one.sort)
    assert seen == {ACTIVE, *SORTS} - {"near"}  # the synthetic build keeps no near misses


def test_near_misses_are_marked_at_the_token_that_nearly_fires(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = build.latent(0)
    assert found is not None
    real = build.contexts(0)
    near = [replace(c, band=NEAR_BAND, rank=i, acts=[0.0] * len(c.acts)) for i, c in enumerate(build.contexts(1))]
    monkeypatch.setattr(build, "contexts", lambda latent: [*real, *near])
    shown = evidence_of(build, found).near
    scored = [one for one in ExampleSource(build, None).of(found, shown).negatives if one.sort == "near"]
    assert shown
    assert scored
    assert not {e.document for e in shown} & {one.excerpt.document for one in scored}
    assert all(one.excerpt.centre in one.marked and not one.excerpt.active for one in scored)


def test_without_a_reader_listed_firings_are_left_out(build: Build) -> None:
    source = ExampleSource(build, None)
    found = build.latent(0)
    assert found is not None
    examples = source.of(found, [])
    listed = {(c.ctx, (c.start or 0) + i) for c in build.contexts(0) for i, act in enumerate(c.acts) if act > 0}
    assert not examples.verified
    assert examples.negatives
    for one in examples.negatives:
        assert not {(one.excerpt.ctx, (one.excerpt.start or 0) + i) for i in range(len(one.excerpt.tokens))} & listed


def test_the_same_seed_gives_the_same_examples(build: Build) -> None:
    found = build.latent(1)
    assert found is not None
    one, two, other = (ExampleSource(build, None, seed=seed).of(found, []) for seed in (0, 0, 1))
    assert one == two
    assert one != other
