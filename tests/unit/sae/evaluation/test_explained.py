"""The share of latents that are explained well, as a measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from sae.evaluation.explained import DEFINITIONS, Explained, qualities
from sae.evaluation.measure import Subject
from sae.explain import results
from sae.explain.records import Explanation, Score
from sae.workspace.paths import Workspace
from tests.builds import make_build

SAE = "demo/one"


def scored(one: Explanation, scorer: str, f1: float) -> Score:
    return Score(one.latent, scorer, f1, 20, one.id, f1=f1)


def test_the_share_of_alive_latents_by_kind(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = workspace.build(SAE, "b")
    path.parent.mkdir(parents=True)
    make_build(path, n_latents=40, sae_id=SAE)
    with duckdb.connect(str(path)) as con:
        alive = [n for n, in con.execute("SELECT latent FROM latent WHERE n_tokens > 0 ORDER BY latent").fetchall()]
        con.execute("UPDATE latent SET rule_kind = 'class', rule_tokens = [], rule_class = 'number',"
                    f" rule_precision = 1, rule_recall = 1, rule_f1 = CASE latent WHEN {alive[0]} THEN 0.9 ELSE 0.3 END"
                    f" WHERE latent IN ({alive[0]}, {alive[1]})")
    good, weak = Explanation(alive[1], "good", "model"), Explanation(alive[2], "weak", "person")
    workspace.sae(SAE).mkdir(parents=True)
    results.append(workspace.sae(SAE), [good, scored(good, "detection", 0.75), weak, scored(weak, "detection", 0.5),
                                        Explanation(alive[3], "unscored", "model")])
    subject: Any = Subject(None, None, None, None, 0, path)  # type: ignore[arg-type]
    seen: list[tuple[int, int]] = []
    found = Explained().run(subject, lambda *work: seen.append(work))
    values = {value.key: value for value in found.values}
    assert set(values) == set(DEFINITIONS)
    n = len(alive)
    assert {key: value.value for key, value in values.items()} == {
        "explained_by_rule": 1 / n, "explained_by_model": 1 / n, "explained_by_person": 0.0, "explained": 2 / n,
        "best_score": pytest.approx((0.9 + 0.75 + 0.5) / 3)}
    assert values["explained"].low < 2 / n < values["explained"].high  # type: ignore[operator]
    assert {i for i, count in enumerate(found.detail["histogram"]) if count} == {10, 15, 18}
    assert seen == [(1, 1)]
    assert Explained().refuse(subject) is None
    assert "no index" in str(Explained().refuse(Subject(None, None, None, None, 0)))  # type: ignore[arg-type]


def test_the_most_telling_scorer_counts() -> None:
    one = Explanation(3, "text", "model")
    records = [one, scored(one, "embedding", 0.9), scored(one, "detection", 0.4), Score(3, "intruder", 1.0, 6)]
    assert qualities(records, {5: 0.8}) == {"rule": {5: 0.8}, "person": {}, "model": {3: 0.4}}
