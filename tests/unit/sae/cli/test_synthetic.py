"""Tests of the command `saescope synthetic`: its table, its JSON, and its refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sae.cli.main import app
from sae.errors import UserError
from sae.evaluation.published import read_published
from sae.evaluation.synthetic import benchmark
from sae.workspace.paths import Workspace
from tests.unit.sae.evaluation.synthetic.test_benchmark import TINY


def test_the_table_has_the_anchors_the_architectures_and_published_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    tiny = replace(TINY, eval_samples=500, published={"topk": {"mcc": 0.757}})
    monkeypatch.setitem(benchmark.PROFILES, "small", tiny)
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(app, ["synthetic", "--architectures", "topk", "--tokens", "2560", "--device", "cpu",
                                    "--keep", "--out", str(tmp_path / "s.json")])
    assert done.exit_code == 0, done.output
    for text in ("perfect", "random", "topk", "published, L0 = 25: topk", "0.757"):
        assert text in done.output
    record = json.loads((tmp_path / "s.json").read_text())
    assert [row["dictionary"] for row in record["rows"]] == ["perfect", "random", "topk"]
    assert record["settings"]["tokens"] == 2560
    kept = {one.name: one for one in read_published(Workspace(tmp_path / "home"), "synthetic-small")}
    assert set(kept) == {"perfect dictionary", "random dictionary", "topk, seed 0", "topk, mean of seeds"}
    assert kept["perfect dictionary"].values["mcc"] == pytest.approx(1)
    assert kept["random dictionary"].values["f1"] < kept["topk, seed 0"].values["f1"] < 1
    trained = record["rows"][2]
    assert kept["topk, seed 0"].values["fvu"] == pytest.approx(1 - trained["explained_variance"])
    assert (kept["topk, mean of seeds"].source, kept["topk, mean of seeds"].values) == ("SynthSAEBench", {"mcc": 0.757})


@pytest.mark.parametrize(("options", "says"), [
    (["--profile", "large"], "profile: 'large' is not one of small, full"),
    (["--tokens", "10"], "tokens: give at least 2,560, ten steps"),
    (["--architectures", "topkk"], "architectures: topkk is not one of")])
def test_bad_settings_get_one_line(options: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        CliRunner().invoke(app, ["synthetic", "--device", "cpu", *options], catch_exceptions=False)
