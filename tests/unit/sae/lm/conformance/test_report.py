"""The file of a conformance report, and what its name depends on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sae.lm.conformance.report import Report, digest, latest
from sae.lm.model_info import ModelInfo
from sae.workspace.paths import Workspace


def test_a_report_is_read_back(tmp_path: Path) -> None:
    report = Report("tiny", "GPT2LMHeadModel", refused={"blocks.0.attn.hook_z": "no heads"}, way="fast")
    report.add("sites", "holds", "largest error 1e-6")
    report.add("edits", "refused")
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report
    assert (report.status_of("edits"), report.status_of("logits")) == ("refused", None)


def test_an_unreadable_report_is_none(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert Report.load(path) is None
    for text in ("", "[]", "{}", '{"format": 0}', '{"format": 1, "rows": [{"other": 1}]}'):
        path.write_text(text)
        assert Report.load(path) is None


def test_the_newest_readable_report_of_a_model_is_found(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for age, (model, way, number) in enumerate([("tiny", "whole", 1), ("tiny", "fast", 2), ("tiny-2", "cached", 3)]):
        path = tmp_path / "conformance" / f"{model}-{number:024x}.json"
        path.parent.mkdir(exist_ok=True)
        Report(model, "Any", way=way).save(path)
        os.utime(path, (1000 + age, 1000 + age))
    found = latest("tiny", workspace)
    assert found is not None
    assert found.way == "fast", "of the same model, and the newest"
    (tmp_path / "conformance" / f"tiny-{2:024x}.json").write_text("damaged")
    again = latest("tiny", workspace)
    assert again is not None
    assert again.way == "whole"
    assert latest("other", workspace) is None


def test_the_digest_changes_with_the_model_the_device_and_the_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    info = ModelInfo("tiny", "tiny", str(tmp_path), True, 2, 8, 64, 100)
    kept = {digest(info, "cpu"), digest(info, "cuda"), digest(info, "cpu", "bfloat16")}
    assert len(kept) == 3
    assert digest(replace(info, name="other"), "cpu") in kept, "the name does not matter"
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert digest(info, "cpu") not in kept
    (tmp_path / "config.json").write_text("{}")
    assert digest(info, "cpu") in kept
    (tmp_path / "model.safetensors").write_bytes(b"22")
    assert digest(info, "cpu") not in kept
