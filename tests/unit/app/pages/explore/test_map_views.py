"""Tests of the colours of the map, and of the names of clusters."""

from __future__ import annotations

import numpy as np

from app.pages.explore.map_views import _by_cluster, _by_explanation, _ruled_words, _words, cluster_names, look
from sae.store.build import Build
from sae.store.map_points import MapPoints

N = 12
POINTS = MapPoints(np.arange(N), np.linspace(0, 1, N), np.linspace(0, 1, N), np.geomspace(1e-5, 0.5, N))
CLUSTERS = np.array([0] * 6 + [1] * 5 + [2])


def test_densities_are_colours_with_their_counts() -> None:
    found = look("density", POINTS, None, None, "")  # type: ignore[arg-type]
    assert (np.diff(found.colours.index_N) >= 0).all()
    assert sum(entry.n for entry in found.legend) == N
    assert [entry.css for entry in found.legend] == ["k0", "k1", "k2", "k3", "k4"]


def test_a_latent_has_the_colour_of_its_first_kind_of_explanation() -> None:
    found = _by_explanation(POINTS, {"rule": {0, 1, 2}, "model": {1}, "person": {2, 99}})
    assert found.colours.index_N.tolist()[:4] == [2, 1, 0, 3]
    assert [(e.name, e.n) for e in found.legend] == [
        ("by a person", 1), ("by a model", 1), ("by a rule", 1), ("none", 9)]


def test_clusters_have_colours_labels_and_a_rest() -> None:
    names = ["loops", "strings", "cluster 3"]
    found = _by_cluster(POINTS, CLUSTERS, names, None)
    assert [(e.css, e.name, e.n, e.cluster) for e in found.legend] == [
        ("c0", "loops", 6, 0), ("c1", "strings", 5, 1), ("c-none", "1 smaller clusters", 1, None)]
    assert [text for _, text in found.colours.labels] == ["loops", "strings"]
    assert [CLUSTERS[i] for i, _ in found.colours.labels] == [0, 1]
    alone = _by_cluster(POINTS, CLUSTERS, names, 1)
    assert list(alone.colours.css) == ["c-none", "c1", "c-none"]
    assert [text for _, text in alone.colours.labels] == ["strings"]


def test_a_name_has_the_words_that_other_clusters_have_least() -> None:
    said = {0: ["python", "loops"], 1: ["python", "loops"], 6: ["python", "strings"], 7: ["python", "strings"]}
    assert cluster_names(CLUSTERS, POINTS.latent_N, said, 3) == ["loops, python", "strings, python", "cluster 3"]


def test_words_are_of_explanations_or_else_of_good_rules(build: Build) -> None:
    assert _words({3: "Fires on the tokens of file paths"}) == {3: ["file", "paths"]}
    said = _ruled_words(build)
    good = [row for row in build.latents(limit=1000).rows if row.rule and row.rule.f1 >= 0.5 and row.rule.tokens]
    assert {row.latent for row in good} <= set(said)
