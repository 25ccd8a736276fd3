"""The reader of a Neuronpedia tree, for trees written by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sae.errors import UserError
from sae.formats.dashboards.neuronpedia import open_dashboard, root_of
from sae.formats.dashboards.records import MAX_LATENTS, Example, Explained, Feature
from sae.formats.histogram_bins import Bins

FEATURE = {
    "modelId": "m", "layer": "3-res", "index": "5", "hookName": "blocks.3.hook_resid_post", "maxActApprox": 2.0,
    "frac_nonzero": 0.25, "freq_hist_data_bar_values": [0.5, 1.5], "freq_hist_data_bar_heights": [3, 1],
    "logits_hist_data_bar_values": [], "logits_hist_data_bar_heights": [], "pos_str": ["a", "b"],
    "pos_values": [2.0, 1.0], "neg_str": ["c"], "neg_values": [-1.0], "topkCosSimIndices": [7, 8],
    "topkCosSimValues": [0.5, 0.25]}
ACTIVATION = {"index": 5, "tokens": ["a", "b"], "values": [0, 1.5], "binMin": 1.0, "binMax": 2.0,
              "qualifyingTokenIndex": 1}
EXPLANATION = {"index": "5", "description": "a letter", "authorId": None, "explanationModelName": "a model"}


def lines(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text, 1) if path.suffix == ".gz" else text)


def tree(root: Path, feature: dict[str, Any] | None = None, **source: Any) -> Path:
    lines(root / "features" / "batch-0.jsonl.gz", FEATURE | (feature or {}))
    lines(root / "activations" / "batch-0.jsonl.gz", ACTIVATION)
    lines(root / "explanations" / "batch-0.jsonl", EXPLANATION)
    if source:
        lines(root / "source.jsonl", source)
    return root


def test_records_come_from_the_lines(tmp_path: Path) -> None:
    read: list[int] = []
    dashboard = open_dashboard(tree(tmp_path / "m" / "3-res"))
    assert [*dashboard.records(read.append)] == [
        Feature(5, 0.25, 2.0, Bins([0.5, 1.5], [3, 1]), None, [("a", 2.0), ("b", 1.0)], [("c", -1.0)],
                [(7, 0.5), (8, 0.25)]),
        Example(5, ["a", "b"], [0.0, 1.5], 1.0, 2.0, 1), Explained(5, "a letter", "a model")]
    assert sum(read) == dashboard.n_bytes
    assert [*dashboard.sample()] == [["a", "b"]]


def test_the_header_comes_from_the_source_or_else_from_the_first_line(tmp_path: Path) -> None:
    plain = open_dashboard(tree(tmp_path / "a" / "b"))
    assert (plain.model, plain.name, plain.layer, plain.hook) == ("m", "3-res", 3, "blocks.3.hook_resid_post")
    assert (plain.dataset, plain.n_prompts, plain.n_latents, plain.own, plain.escaped) == ("", None, None, None, False)
    named = open_dashboard(tree(
        tmp_path / "c" / "d", {"modelId": None}, id="12-x", dataset="this/text", num_prompts="40",
        num_tokens_in_prompt=128, saelensConfig={"d_sae": 64, "metadata": {
            "hook_name": "blocks.12.hook_mlp_out", "saescope_build": {"k": 3}}}))
    assert (named.model, named.name, named.layer, named.hook) == ("c", "12-x", 12, "blocks.12.hook_mlp_out")
    assert (named.dataset, named.n_prompts, named.context_length, named.n_latents) == ("this/text", 40, 128, 64)
    assert (named.own, named.escaped) == ({"k": 3}, True)


def test_batches_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        lines(tmp_path / "features" / f"batch-{number}.jsonl.gz", FEATURE | {"index": number})
    assert [record.latent for record in open_dashboard(tmp_path).records(lambda n: None)] == [0, 2, 10]


@pytest.mark.parametrize("above", ["", "m", "v1/m", "x/v1/m"])
def test_the_source_is_found_below_the_folder(tmp_path: Path, above: str) -> None:
    root = tree(tmp_path / above / "3-res")
    assert root_of(tmp_path) == root
    assert root_of(root) == root
    tree(tmp_path / above / "4-res")
    with pytest.raises(UserError, match="has 2 sources; name one of them"):
        root_of(tmp_path)
    assert root_of(tmp_path / "missing") is None


@pytest.mark.parametrize("index", [-1, "x", None, 1.5, MAX_LATENTS, True])
def test_an_index_that_is_no_latent_is_refused(tmp_path: Path, index: object) -> None:
    dashboard = open_dashboard(tree(tmp_path, {"index": index}))
    with pytest.raises(UserError, match="is not the number of a latent"):
        list(dashboard.records(lambda n: None))
