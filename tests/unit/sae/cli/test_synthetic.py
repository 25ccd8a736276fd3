"""Tests of the command `saescope synthetic`: its table, its JSON, and its refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sae.cli.main import app
from sae.errors import UserError
from sae.evaluation.synthetic import benchmark
from tests.unit.sae.evaluation.synthetic.test_benchmark import TINY


def test_the_table_has_the_anchors_the_architectures_and_published_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    tiny = replace(TINY, eval_samples=500, published={"topk": {"mcc": 0.757}})
    monkeypatch.setitem(benchmark.PROFILES, "small", tiny)
    done = CliRunner().invoke(app, ["synthetic", "--architectures", "topk", "--tokens", "2560", "--device", "cpu",
                                    "--out", str(tmp_path / "s.json")])
    assert done.exit_code == 0, done.output
    for text in ("perfect", "random", "topk", "published, L0 = 25: topk", "0.757"):
        assert text in done.output
    record = json.loads((tmp_path / "s.json").read_text())
    assert [row["dictionary"] for row in record["rows"]] == ["perfect", "random", "topk"]
    assert record["settings"]["tokens"] == 2560


@pytest.mark.parametrize(("options", "says"), [
    (["--profile", "large"], "profile: 'large' is not one of small, full"),
    (["--tokens", "10"], "tokens: give at least 2,560, ten steps"),
    (["--architectures", "topkk"], "architectures: topkk is not one of")])
def test_bad_settings_get_one_line(options: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        CliRunner().invoke(app, ["synthetic", "--device", "cpu", *options], catch_exceptions=False)
