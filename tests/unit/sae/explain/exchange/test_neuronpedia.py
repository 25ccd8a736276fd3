"""The JSONL of Neuronpedia, constructed by its documented shape, out and back in."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from sae.errors import UserError
from sae.explain.exchange import formats
from sae.explain.records import Score
from tests.unit.sae.explain.conftest import SAE
from tests.unit.sae.explain.exchange.exchanged import ALL, MODEL, dump_row, kept


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


def test_a_line_for_neuronpedia_has_the_documented_keys(tmp_path: Path) -> None:
    formats.write("neuronpedia", ALL, tmp_path / "e.jsonl", SAE, "2-res", "h")
    rows = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{*dump_row("1"), "source"}] * 3, "the importer takes its columns from line 1"
    assert rows[1] | {"id": "", "embedding": None} == {
        "id": "", "modelId": "demo", "layer": "2-res", "index": "5", "description": MODEL.text, "authorId": "ada",
        "triggeredById": None, "typeName": "np_max-act-logits", "explanationModelName": "gpt-4.1-nano",
        "notes": "detection 0.900", "createdAt": "2023-11-14T22:13:20.000Z", "embedding": None,
        "source": "2-res"}
    assert rows[0]["authorId"] == "saescope", "the table of authors has no null"
