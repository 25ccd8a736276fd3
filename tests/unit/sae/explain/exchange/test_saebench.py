"""The JSON of SAEBench's autointerp evaluation, constructed by its documented shape."""

from __future__ import annotations

import json
from pathlib import Path

from sae.explain.exchange import formats
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
