"""The JSON of SAEBench's autointerp evaluation, constructed by its documented shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sae.explain.exchange import formats, saebench
from sae.explain.records import Explanation, Score


def test_saebenchs_results(tmp_path: Path) -> None:
    path = tmp_path / "sae_eval_results.json"
    path.write_text(json.dumps({
        "eval_type_id": "autointerp", "eval_config": {"llm_judge_model": "gpt-4o-mini"},
        "eval_result_metrics": {"autointerp": {"autointerp_score": 0.8, "autointerp_std_dev": 0.1}},
        "eval_result_unstructured": {"3": {"latent": 3, "explanation": "cats", "predictions": [1, 2],
                                           "correct seqs": [1, 2], "score": 0.857}, "9": {"explanation": None}}}))
    score, one = formats.read(path, 10)
    assert isinstance(one, Explanation)
    assert isinstance(score, Score)
    assert (one.latent, one.text, one.model, score.value, score.scorer) == (3, "cats", "gpt-4o-mini", 0.857, "imported")


def test_a_result_says_how_many_texts_a_score_is_of(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text(json.dumps({
        "eval_type_id": "autointerp", "eval_config": {
            "n_top_ex_for_scoring": 2, "n_random_ex_for_scoring": 10, "n_iw_sampled_ex_for_scoring": 2},
        "eval_result_unstructured": {"3": {"latent": 3, "explanation": "cats", "predictions": [1], "score": 0.5}}}))
    score, _ = formats.read(path, 10)
    assert isinstance(score, Score)
    assert score.n == 14


def test_what_is_written_has_the_fields_of_saebenchs_classes(tmp_path: Path) -> None:
    one, other = Explanation(1, "a", "model"), Explanation(2, "b", "model")
    written = saebench.document([one, other, Score(1, "detection", 0.7, 9, one.id),
                                 Score(2, "detection", 0.9, 9, other.id)], "demo/2-res")
    assert {"eval_type_id", "eval_config", "eval_id", "datetime_epoch_millis", "eval_result_metrics",
            "eval_result_details", "sae_bench_commit_hash", "sae_lens_id", "sae_lens_release_id", "sae_lens_version",
            "sae_cfg_dict", "eval_result_unstructured"} == set(written)
    metrics = written["eval_result_metrics"]["autointerp"]
    assert metrics["autointerp_score"] == pytest.approx(0.8)
    assert metrics["autointerp_std_dev"] == pytest.approx(0.02**0.5), "of a sample, as SAEBench has it"
    unscored = tmp_path / "e.json"
    formats.write("saebench", [one], unscored, "demo/2-res", "", "")
    assert [record.latent for record in formats.read(unscored, 10)] == [1]
