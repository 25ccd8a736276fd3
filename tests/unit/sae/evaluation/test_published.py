"""Tests of published results: they are kept by model, listed, and removed again."""

from __future__ import annotations

import json

from sae.evaluation.published import (
    PublishedResult,
    read_all_published,
    read_published,
    remove_published,
    write_published,
)
from sae.workspace.paths import Workspace


def test_published_results_are_kept_by_model(workspace: Workspace) -> None:
    one = PublishedResult("pythia-70m", "a/b", "core", "SAEBench", values={"l0": 1.0})
    path = write_published(workspace, one)
    write_published(workspace, PublishedResult("pythia-70m", "a-b", "core", "SAEBench", values={"l0": 2.0}))
    write_published(workspace, one)
    assert len(read_published(workspace, "pythia-70m")) == 2, "two names with one slug, one of them twice"
    path.write_text('{"model": 3}')
    assert len(read_published(workspace, "Pythia-70m")) == 1
    path.write_text(json.dumps({"model": "m", "name": "n", "kind": "core", "source": "s", "values": {"a": "b"}}))
    assert len(read_published(workspace, "pythia-70m")) == 1
    assert read_published(workspace, "other") == []


def test_published_results_of_one_sae_are_removed(workspace: Workspace) -> None:
    for name, kind in (("a", "core"), ("a", "scr"), ("b", "core")):
        write_published(workspace, PublishedResult("m", name, kind, "SAEBench", values={"l0": 1.0}))
    write_published(workspace, PublishedResult("n", "a", "core", "SAEBench", values={"l0": 1.0}))
    assert remove_published(workspace, "m", "a")
    assert not remove_published(workspace, "m", "a")
    assert [(one.model, one.name) for one in read_all_published(workspace)] == [("m", "b"), ("n", "a")]
