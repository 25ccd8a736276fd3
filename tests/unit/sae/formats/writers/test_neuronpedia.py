"""The Neuronpedia tree of a build: its files, its lines, and what goes into them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sae.formats.writers import neuronpedia
from sae.formats.writers.dashboard_rows import Exporter
from sae.formats.writers.neuronpedia import Explanation
from sae.store.build import Build
from tests.builds import make_build

CONFIG: dict[str, Any] = {
    "schema_version": 1, "id": "demo/2-res-x", "model": {"name": "demo", "id": "demo"},
    "site": {"layer": 2, "hook": "blocks.2.hook_resid_post"}, "architecture": "batch_topk", "n_latents": 12,
    "d_model": 256, "k": 12, "normalize": "layer_norm", "context_length": 128, "created": 1.0}
LABELS = {4: [Explanation("a dot", "ada")], 11: [Explanation("no author")], 7: [Explanation("", "ada")]}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    path = tmp_path_factory.mktemp("build") / "b-1.duckdb"
    build = Build.open(make_build(path, n_latents=12, n_contexts=6, sae_id=CONFIG["id"]).path)
    yield build
    build.close()


@pytest.fixture
def files(build: Build, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of every file, with batches of five latents."""
    monkeypatch.setattr(neuronpedia, "BATCH", 5)
    found = {}
    for name, chunks in neuronpedia.members(Exporter(build, CONFIG), LABELS):
        content = b"".join(chunks)
        text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("ascii")
        found[name] = [json.loads(line) for line in text.splitlines()]
    return found


def lines(files: dict[str, list[dict[str, Any]]], kind: str) -> list[dict[str, Any]]:
    return [row for name, rows in files.items() if f"/{kind}/" in name for row in rows]


def test_latents_are_in_batches_and_only_labelled_ones_are_explained(files: dict[str, list[dict[str, Any]]]) -> None:
    root = "v1/demo/2-res-x"
    heads = [f"{root}/{name}.jsonl" for name in ("release", "model", "sourceset", "source")]
    kinds = {"features": (0, 1, 2), "activations": (0, 1, 2), "explanations": (0, 2)}
    assert sorted(files) == sorted([*heads, *(
        f"{root}/{kind}/batch-{n}.jsonl.gz" for kind, numbers in kinds.items() for n in numbers)])
    assert [row["index"] for row in files[f"{root}/features/batch-1.jsonl.gz"]] == ["5", "6", "7", "8", "9"]
    assert [(row["index"], row["description"], row["authorId"]) for row in lines(files, "explanations")] == [
        ("4", "a dot", "ada"), ("11", "no author", "saescope")]


def test_every_line_of_a_kind_has_the_same_keys(files: dict[str, list[dict[str, Any]]]) -> None:
    for kind in ("features", "activations", "explanations"):
        rows = lines(files, kind)
        assert rows
        assert len({tuple(row) for row in rows}) == 1
    assert all("saescope" not in row for name, rows in files.items() if name.count("/") == 3 for row in rows)


def test_lines_say_what_the_build_says(build: Build, files: dict[str, list[dict[str, Any]]]) -> None:
    for row in lines(files, "features"):
        latent = build.latent(int(row["index"]))
        assert latent is not None
        assert row["maxActApprox"] == pytest.approx(latent.max_act)
        assert row["frac_nonzero"] == latent.density
        assert sum(row["freq_hist_data_bar_heights"]) == latent.n_tokens
        assert row["topkCosSimIndices"] == [other for other, _ in latent.neighbours]
        assert row["correlated_features_indices"] == [other.latent for other in latent.together]
    shown = lines(files, "activations")
    for latent in range(12):
        contexts = [c for c in build.contexts(latent) if c.band <= 4]
        mine = [row for row in shown if row["index"] == str(latent)]
        assert len(mine) == len(contexts)
        for row, context in zip(mine, contexts, strict=True):
            assert row["values"] == pytest.approx(context.acts)
            assert len(row["tokens"]) == len(context.tokens)
            assert (row["maxValue"], row["values"][row["maxValueTokenIndex"]]) == (max(row["values"]),) * 2
            assert (row["qualifyingTokenIndex"], row["saescope"]["band"]) == (context.peak, context.band)
            if context.band:
                assert row["binMin"] <= row["maxValue"]
                assert row["binContains"] > 0
            else:
                assert (row["binMin"], row["binContains"]) == (-1, -1)


def test_one_latent_in_the_shape_of_the_api(build: Build, files: dict[str, list[dict[str, Any]]]) -> None:
    ((latent, contexts),) = build.records(4, 5)
    answer = neuronpedia.feature_json(Exporter(build, CONFIG), latent, contexts, LABELS[4])
    assert answer.items() >= lines(files, "features")[4].items()
    assert answer["activations"] == [row for row in lines(files, "activations") if row["index"] == "4"]
    assert [one["description"] for one in answer["explanations"]] == ["a dot"]
    assert answer["source"]["saelensConfig"]["metadata"]["saescope_build"]["text"] == build.meta["text"]


@pytest.mark.parametrize(("sae_id", "source"), [
    ("demo/2-res-x", "2-res-x"), ("demo/mine", "2-mine"), ("demo/22-x", "2-22-x"), ("demo/2", "2-2")])
def test_a_sources_name_begins_with_its_layer(sae_id: str, source: str) -> None:
    assert neuronpedia.source_id(CONFIG | {"id": sae_id}) == source
