"""The folder of delphi, constructed by its documented shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sae.errors import UserError
from sae.explain.exchange import formats
from sae.explain.records import Explanation, Score


def test_delphis_folder_with_scores(tmp_path: Path) -> None:
    for folder in ("explanations", "scores/detection", "scores/fuzz"):
        (tmp_path / folder).mkdir(parents=True)
    name = "layers.5_latent12.txt"
    (tmp_path / "explanations" / name).write_text(json.dumps("cats and dogs"))
    examples = [{"str_tokens": ["a"], "activations": [1.0], "distance": 1, "activating": i < 4,
                 "prediction": (i < 3) if i != 7 else None, "probability": None, "correct": True} for i in range(8)]
    (tmp_path / "scores/detection" / name).write_text(json.dumps(examples))
    (tmp_path / "scores/fuzz" / name).write_text("[]")
    records = formats.read(tmp_path, 20)
    [score] = [one for one in records if isinstance(one, Score)]
    # 3 of 4 positives, and 3 of 4 negatives: the one without a prediction counts as wrong
    assert (score.scorer, score.value, score.n) == ("detection", 0.75, 8)
    assert score.details == {"unparsable": 1}
    assert [(one.latent, one.text, one.method) for one in records if isinstance(one, Explanation)] == [
        (12, "cats and dogs", "delphi")]
    (tmp_path / "explanations" / name).write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        formats.read(tmp_path, 20)


def test_one_module_of_several_is_read(tmp_path: Path) -> None:
    (tmp_path / "explanations").mkdir()
    for name, text in {"layers.5_latent12": "cats", "layers.6.mlp_latent12": "dogs", "layers.5_latent3":
                       "Explanation could not be parsed."}.items():
        (tmp_path / "explanations" / f"{name}.txt").write_text(json.dumps(text))
    with pytest.raises(UserError, match=r"several modules \(layers.5, layers.6.mlp\); name one of them"):
        formats.read(tmp_path, 20)
    records = formats.read(tmp_path, 20, "layers.5")
    assert [(one.latent, one.text) for one in records if isinstance(one, Explanation)] == [(12, "cats")]
    with pytest.raises(UserError, match="no explanations"):
        formats.read(tmp_path, 20, "layers.7")
