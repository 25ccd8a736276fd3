"""Latents by the tokens of a text, against every latent looked at one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae.store.build import Build
from sae.store.latent_search import explained_as, firing_on, raising, with_rule
from tests.builds import make_build


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder: Path = tmp_path_factory.mktemp("search")
    return Build.open(make_build(folder / "b.duckdb", n_latents=80, n_contexts=24).path)


def test_latents_that_fire_on_a_token(build: Build) -> None:
    token = build.find_tokens("self")[0]
    rows = build.latents("lift", True, token=token.token, limit=1000).rows
    expected = {row.latent: 2 * row.token_n / (row.n_tokens + token.n) for row in rows}
    hits = firing_on(build, [token.token])
    assert {hit.latent: hit.f1 for hit in hits} == pytest.approx({hit.latent: expected[hit.latent] for hit in hits})
    assert [hit.f1 for hit in hits] == pytest.approx(sorted(expected.values(), reverse=True)[:40])
    assert firing_on(build, []) == []


def test_latents_that_raise_a_logit(build: Build) -> None:
    token = build.latent(9).logit_pos[0][0]
    expected = [(value, i) for i in range(80) for t, value in build.latent(i).logit_pos if t == token]
    assert [(value, i) for i, _, value in raising(build, [token])] == sorted(expected, key=lambda pair: -pair[0])[:40]


def test_without_rules_and_explanations_nothing_is_found(build: Build) -> None:
    assert with_rule(build, [1], ["comment"], 0.5) == []
    assert explained_as(build, "anything") == []
