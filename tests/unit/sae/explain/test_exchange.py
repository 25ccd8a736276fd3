"""Explanations in the formats of other programs, constructed by their documented shapes, out and back in."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sae.cli.main import app
from sae.errors import UserError
from sae.explain import results
from sae.explain.exchange import formats
from sae.explain.records import Explanation, Score
from sae.workspace.paths import Workspace
from tests.unit.sae.explain.conftest import SAE

RULE = Explanation(3, 'fires on " raise"', "rule", method="saescope-rule", created=1_700_000_000.0)
MODEL = Explanation(5, "the keyword raise — “é”", "model", "ada", "np_max-act-logits", "gpt-4.1-nano",
                    created=1_700_000_000.0)
PERSON = Explanation(7, "numbers", "person", "bob", created=1_700_000_000.0)
SCORE = Score(5, "detection", 0.9, 25, MODEL.id, 0.8, 1.0, 0.88)
ALL = [RULE, SCORE, MODEL, PERSON]


def dump_row(index: str, **changes: Any) -> dict[str, Any]:
    """Return a line of Neuronpedia's public dumps."""
    return {"id": "cm1a2b3c4d5e6f7g8h9i0j1k2", "modelId": "gpt2-small", "layer": "6-res-jb", "index": index,
            "description": " references to  cats", "authorId": "clkht01d40000jv08hvalcvly", "embedding": [0.1] * 256,
            "triggeredById": None, "typeName": "oai_token-act-pair", "explanationModelName": "gpt-3.5-turbo",
            "notes": None, "createdAt": "2024-02-01T10:20:30.123Z", **changes}


def kept(records: list[Any]) -> set[tuple[Any, ...]]:
    return {(one.latent, one.text, one.kind, one.author, one.method, one.model, round(one.created))
            for one in records if isinstance(one, Explanation)}


def test_neuronpedias_dumps_are_read_with_type_and_model(tmp_path: Path) -> None:
    folder = tmp_path / "v1" / "explanations"
    folder.mkdir(parents=True)
    rows = [dump_row("3"), dump_row("4", id="x", typeName=None, explanationModelName=None) | {"index": 4},
            dump_row("5", description=" "), dump_row("6", scores=[{"value": 0.5, "explanationScoreTypeName":
                     "recall_alt", "explanationScoreModelName": "gpt-4o-mini"}])]
    with gzip.open(folder / "batch-0.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    for path in (folder, tmp_path / "v1", folder / "batch-0.jsonl.gz"):
        records = formats.read(path, 10)
        assert kept(records) == {
            (3, "references to cats", "model", "clkht01d40000jv08hvalcvly", "oai_token-act-pair", "gpt-3.5-turbo",
             1706782830),
            (4, "references to cats", "person", "clkht01d40000jv08hvalcvly", "", "", 1706782830),
            (6, "references to cats", "model", "clkht01d40000jv08hvalcvly", "oai_token-act-pair", "gpt-3.5-turbo",
             1706782830)}
        [score] = [one for one in records if isinstance(one, Score)]
        assert (score.scorer, score.value, score.details) == ("imported", 0.5, {"type": "recall_alt"})
    with pytest.raises(UserError, match="latent 6; the SAE has 6"):
        formats.read(folder, 6)


def test_a_file_of_several_sources_needs_a_choice(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps(dump_row(i, layer=f"{i}-res-jb")) + "\n" for i in "34"))
    with pytest.raises(UserError, match="several sources"):
        formats.read(path, 10)
    assert [one.latent for one in formats.read(path, 10, "4-res-jb")] == [4]


@pytest.mark.parametrize(("form", "name"), [
    ("neuronpedia", "e.jsonl"), ("saescope", "e.jsonl"), ("delphi", "folder"), ("saebench", "e.json")])
def test_what_is_written_is_read_back(tmp_path: Path, form: str, name: str) -> None:
    formats.write(form, ALL, tmp_path / name, SAE, "2-res", "blocks.2.hook_resid_post")
    back = formats.read(tmp_path / name, 10)
    assert {(one.latent, one.text) for one in back if isinstance(one, Explanation)} == {
        (3, RULE.text), (5, MODEL.text), (7, "numbers")}
    if form in ("neuronpedia", "saescope"):
        assert kept(back) == kept(ALL)
    if form in ("saescope", "saebench"):
        assert [one.value for one in back if isinstance(one, Score)] == [0.9]
    with pytest.raises(UserError, match="exists already"):
        formats.write(form, ALL, tmp_path / name, SAE, "2-res", "h")


def test_a_line_for_neuronpedia_has_the_documented_keys(tmp_path: Path) -> None:
    formats.write("neuronpedia", ALL, tmp_path / "e.jsonl", SAE, "2-res", "h")
    rows = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [set(dump_row("1"))] * 3
    assert rows[1] | {"id": "", "embedding": None} == {
        "id": "", "modelId": "demo", "layer": "2-res", "index": "5", "description": MODEL.text, "authorId": "ada",
        "triggeredById": None, "typeName": "np_max-act-logits", "explanationModelName": "gpt-4.1-nano",
        "notes": "detection 0.900", "createdAt": "2023-11-14T22:13:20.000Z", "embedding": None}


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


@pytest.mark.parametrize(("name", "content"), [
    ("a.txt", "x"), ("a.jsonl", "x"), ("a.jsonl", "[]\n"), ("a.jsonl", "{}\n"), ("a.jsonl", ""),
    ("a.json", '{"eval_type_id": "autointerp"}'), ("a.jsonl.gz", "no gzip")])
def test_other_files_are_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="source: ") as error:
        formats.read(tmp_path / name, 10)
    assert error.value.field == "source"
    with pytest.raises(UserError, match="there is no"):
        formats.read(tmp_path / "none", 10)


def test_explanations_are_added_once(tmp_path: Path) -> None:
    assert formats.add(tmp_path, ALL) == 3
    assert formats.add(tmp_path, ALL) == 0
    assert len(results.read(tmp_path)[0]) == 4


def test_the_commands(indexed: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    monkeypatch.setenv("SAESCOPE_HOME", str(indexed.root))
    formats.write("saescope", ALL, tmp_path / "in.jsonl", SAE, "", "")
    done = CliRunner().invoke(app, ["explanations", "import", str(tmp_path / "in.jsonl"), "--sae", SAE])
    assert (done.exit_code, done.stdout) == (0, f"3 explanations added to {SAE}\n")
    out = tmp_path / "out.jsonl"
    assert CliRunner().invoke(app, ["explanations", "export", "--sae", SAE, "--out", str(out)]).exit_code == 0
    assert kept(formats.read(out, 60)) == kept(ALL)
