"""Tests of the scores of a synthetic world as results that pages show."""

from __future__ import annotations

from sae.evaluation.synthetic.kept import results


def test_a_result_for_each_dictionary_seed_and_published_score() -> None:
    rows = [{"dictionary": "perfect", "seed": None, "mcc": 1.0, "explained_variance": 0.75, "dead": 0.0},
            {"dictionary": "topk", "seed": 2, "mcc": 0.5, "explained_variance": 0.5, "dead": 0.25},
            {"dictionary": "relu", "seed": 0, "error": "diverged"}]
    perfect, topk, reference = results("small", rows, {"topk": {"mcc": 0.757}}, 128, 2)
    assert (perfect.model, perfect.name, perfect.architecture) == (
        "synthetic-small", "perfect dictionary", "perfect dictionary")
    assert (topk.name, topk.architecture, topk.n_latents, topk.k) == ("topk, seed 2", "topk", 128, 2)
    assert topk.values == {"mcc": 0.5, "explained_variance": 0.5, "fvu": 0.5, "dead_fraction": 0.25}
    assert (reference.name, reference.source, reference.values) == (
        "topk, mean of seeds", "SynthSAEBench", {"mcc": 0.757})
