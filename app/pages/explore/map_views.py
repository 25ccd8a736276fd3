"""The colours of the map: by density, by the kind of explanation, or by cluster, each with its legend."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from sqlalchemy.orm import Session

from app.library import explanations
from app.render.latent_words import SHOWN_F1
from app.render.plane import Colours, places
from app.render.token_text import token_label
from sae.store.build import Build
from sae.store.map_points import MapPoints, direction_clusters

COLOURS = {"density": "density", "explained": "explanation", "cluster": "cluster"}
_DENSITIES = ((1e-4, "below 0.01%"), (1e-3, "0.01 to 0.1%"), (1e-2, "0.1 to 1%"), (1e-1, "1 to 10%"),
              (math.inf, "10% and more"))
_KINDS = {"person": "by a person", "model": "by a model", "rule": "by a rule", "none": "none"}
SHOWN_CLUSTERS = 8  # the largest; the others are grey
_SMALLEST = 5  # latents of a cluster that is worth a colour
_WORDS = 3  # of a cluster's name
_STOP = frozenset({  # words of explanations that say nothing
    "a", "about", "after", "all", "an", "and", "any", "are", "as", "at", "be", "before", "beginning", "by",
    "code", "context", "contexts", "each", "end", "ending", "fires", "first", "for", "from", "has", "have",
    "in", "into", "is", "it", "its", "kind", "latent", "like", "name", "names", "of", "often", "on", "or",
    "other", "output", "part", "related", "rule", "such", "text", "that", "the", "their", "them", "these",
    "this", "to", "token", "tokens", "used", "usually", "when", "where", "which", "with", "word", "words"})


@dataclass(frozen=True)
class Entry:
    """A line of the legend: the colour's class, its name, how many latents have it, and the cluster's number."""

    css: str
    name: str
    n: int
    cluster: int | None = None


@dataclass(frozen=True)
class Look:
    """The colours of the points with their legend."""

    colours: Colours
    legend: list[Entry]


def look(
    kind: str, points: MapPoints, build: Build, db: Session, sae_id: str, only: int | None = None,
) -> Look:
    """Return the colours of one of COLOURS; `only` is the cluster that is shown alone."""
    if kind == "explained":
        return _by_explanation(points, explanations.latents_by_kind(db, sae_id))
    if kind == "cluster":
        cluster_N = direction_clusters(build)
        return _by_cluster(points, cluster_N, _names(build, points, cluster_N, explanations.texts(db, sae_id)), only)
    index_N = np.digitize(points.density_N, [high for high, _ in _DENSITIES[:-1]])
    css = [f"k{i}" for i in range(len(_DENSITIES))]
    counts = np.bincount(index_N, minlength=len(css))
    return Look(Colours(index_N, css), [
        Entry(css[i], name, int(counts[i])) for i, (_, name) in enumerate(_DENSITIES) if counts[i]])


def _by_explanation(points: MapPoints, by_kind: Mapping[str, frozenset[int]]) -> Look:
    """Colour each latent by the first of the kinds that it has: a person's, a model's, a rule, none."""
    index_N = np.full(len(points.latent_N), len(_KINDS) - 1)
    for place, kind in reversed(list(enumerate(list(_KINDS)[:-1]))):
        index_N[np.isin(points.latent_N, list(by_kind.get(kind, ())))] = place
    css = ["c0", "c1", "c2", "c-none"]
    counts = np.bincount(index_N, minlength=len(css))
    return Look(Colours(index_N, css), [
        Entry(css[i], name, int(counts[i])) for i, name in enumerate(_KINDS.values()) if counts[i]])


def _by_cluster(
    points: MapPoints, cluster_N: np.ndarray, names: Sequence[str], only: int | None,
) -> Look:
    """Colour the largest clusters, or one alone, and label each at the latent that is most in its middle."""
    size_C = np.bincount(cluster_N)
    shown = [c for c in range(min(SHOWN_CLUSTERS, len(size_C))) if size_C[c] >= _SMALLEST]
    css = [*(f"c{c}" if only in (None, c) else "c-none" for c in shown), "c-none"]
    x_N, y_N = places(points) if len(points.latent_N) else (points.x_N, points.y_N)
    labels = []
    for c in shown:
        member = np.flatnonzero(cluster_N == c)
        away = (x_N[member] - np.median(x_N[member])) ** 2 + (y_N[member] - np.median(y_N[member])) ** 2
        if only in (None, c):
            labels.append((int(member[np.argmin(away)]), names[c]))
    rest = int(size_C[len(shown):].sum())
    legend = [Entry(f"c{c}", names[c], int(size_C[c]), c) for c in shown]
    return Look(Colours(np.minimum(cluster_N, len(shown)), css, labels),
                [*legend, *([Entry("c-none", f"{len(size_C) - len(shown):,} smaller clusters", rest)] if rest else [])])


_named: WeakKeyDictionary[Build, tuple[int, list[str]]] = WeakKeyDictionary()  # with a hash of the explanations


def _names(build: Build, points: MapPoints, cluster_N: np.ndarray, texts: Mapping[int, str]) -> list[str]:
    """Return the names of the clusters that are shown, which are made again when the explanations have changed."""
    key = hash(frozenset(texts.items()))
    if build not in _named or _named[build][0] != key:
        said = {**_ruled_words(build), **_words(texts)}
        _named[build] = key, cluster_names(cluster_N, points.latent_N, said, SHOWN_CLUSTERS)
    return _named[build][1]


def cluster_names(
    cluster_N: np.ndarray, latent_N: np.ndarray, said: Mapping[int, list[str]], n: int,
) -> list[str]:
    """Return names of the first `n` clusters: the words that more of their latents' explanations have than others'."""
    counts: dict[int, Counter[str]] = {}
    for cluster, latent in zip(cluster_N.tolist(), latent_N.tolist(), strict=True):
        if latent in said:
            counts.setdefault(cluster, Counter()).update(dict.fromkeys(said[latent], 1))
    everywhere = Counter[str]()
    for count in counts.values():
        everywhere.update(count)
    names = []
    for cluster in range(n):
        count = counts.get(cluster, Counter[str]())
        best = sorted(count, key=lambda word: (-count[word] * count[word] / everywhere[word], word))
        chosen = [word for word in best if count[word] > 1][:_WORDS]
        names.append(", ".join(chosen) or f"cluster {cluster + 1}")
    return names


def _ruled_words(build: Build) -> dict[int, list[str]]:
    """Return the tokens of each latent's rule, where the rule is good."""
    rows = build.arrow(
        f"SELECT latent, rule_tokens FROM latent WHERE rule_f1 >= {SHOWN_F1} AND len(rule_tokens) > 0",
        65_536).read_all()
    info = build.vocabulary
    return {row["latent"]: _distinct([token_label(info[t]).strip("· ") for t in row["rule_tokens"]])
            for row in rows.to_pylist()}


def _words(texts: Mapping[int, str]) -> dict[int, list[str]]:
    """Return the words of each explanation."""
    return {latent: _distinct(re.findall(r"[^\W\d_]\w+", text.lower())) for latent, text in texts.items()}


def _distinct(words: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(word for word in words if len(word) > 1 and word.lower() not in _STOP))
