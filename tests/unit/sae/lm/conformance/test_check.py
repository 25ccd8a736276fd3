"""The check finds what is wrong: each belief of the program is made false, and the table says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.conformance import opening
from sae.lm.conformance.check import check
from sae.lm.conformance.report import Report, Row
from sae.lm.conformance.tiny_models import write_tiny_model
from sae.workspace.paths import Workspace
from tests.unit.sae.lm.conformance.conftest import Tiny

LLAMA = "LlamaForCausalLM"


@pytest.fixture
def lm(tiny: Tiny) -> Any:
    """A model, which afterwards refuses nothing."""
    model = tiny(LLAMA)
    yield model
    model.refused, model.way = {}, ""


def refused(report: Report) -> dict[str, str]:
    return {row.subject: row.detail for row in report.rows if row.status == "refused"}


def test_a_model_of_a_common_family_holds_in_all(lm: LanguageModel) -> None:
    report = check(lm)
    assert not report.error
    assert refused(report) == {}
    assert report.way == "fast"


def test_activations_of_another_place_are_found(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    right = LanguageModel.activations_at

    def wrong(self: LanguageModel, tokens: Tensor, hooks: Any, **options: Any) -> list[Tensor]:
        return [x * 1.01 if hook.endswith("hook_resid_post") else x
                for hook, x in zip(hooks, right(self, tokens, hooks, **options), strict=True)]

    monkeypatch.setattr(LanguageModel, "activations_at", wrong)
    assert "other numbers" in refused(check(lm))["hook_resid_post"]


def test_an_edit_that_does_something_else_is_found(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    right = LanguageModel.logits

    def wrong(self: LanguageModel, tokens: Tensor, edits: Any = None) -> Tensor:
        weaker = {hook: (lambda x, edit=edit: (edit(x) + 0.01 * x) / 1.01) for hook, edit in (edits or {}).items()}
        return right(self, tokens, weaker if any("hook_mlp_out" in hook for hook in weaker) else edits)

    monkeypatch.setattr(LanguageModel, "logits", wrong)
    assert set(refused(check(lm))) == {"hook_mlp_out"}


@pytest.mark.parametrize("fault", ["gain", "order", "size"])
def test_a_map_to_the_logits_that_is_not_the_models_is_found(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    right = LanguageModel.unembedding

    def wrong(self: LanguageModel, hook: str = "", head_DV: Tensor | None = None) -> Tensor:
        lists = right(self, hook)
        if fault == "gain":
            return lists * torch.linspace(0.9, 1.1, len(lists))[:, None]
        return lists.flip(0) if fault == "order" else lists * 1.1

    monkeypatch.setattr(LanguageModel, "unembedding", wrong)
    found = refused(check(lm))
    assert set(found) == {"hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post",
                          "hook_mlp_out", "hook_resid_post", "hook_embed", "single heads"}
    assert "final norm and head" in found["hook_resid_post"]


def test_windows_that_are_left_out_cost_the_fast_way(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text reaches past the window, so attention without it is found, and the slower way is taken."""
    from sae.lm import row_model

    right = row_model._attend

    def without(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, settings: Any) -> Tensor:
        return right(q, k, v, None if q.shape[2] > 1 else mask, settings)

    mistral = tiny("MistralForCausalLM")
    assert check(mistral).way == "fast"
    monkeypatch.setattr(row_model, "_attend", without)
    report = check(mistral)
    mistral.refused, mistral.way = {}, ""
    assert report.way == "cached"
    assert not report.error
    assert "past windows of 8" in report.rows[0].detail


def test_a_site_that_does_not_hold_is_refused_by_name(lm: LanguageModel) -> None:
    lm.refused = {"blocks.1.hook_mlp_out": "it is too warm"}
    tokens = torch.tensor([[0, 5, 6]])
    for attempt in (lambda: lm.activations_at(tokens, ["blocks.1.hook_mlp_out"]),
                    lambda: lm.logits(tokens, {"blocks.1.hook_mlp_out": torch.zeros_like})):
        with pytest.raises(UserError, match=r"site: blocks\.1\.hook_mlp_out is not offered .* too warm") as error:
            attempt()
        assert error.value.field == "site"
    lm.activations_at(tokens, ["blocks.0.hook_mlp_out"])
    lm.refused = {"blocks.1.attn.hook_z:h": "they are none"}
    lm.activations_at(tokens, ["blocks.1.attn.hook_z"])
    with pytest.raises(UserError, match=r"blocks\.1\.attn\.hook_z:h2 is not offered .* they are none"):
        lm.activations_at(tokens, ["blocks.1.attn.hook_z:h2"])


def test_the_table_is_kept_until_the_model_changes(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    write_tiny_model(LLAMA, folder)
    times: list[str] = []

    def counted(lm: LanguageModel) -> Report:
        times.append(lm.info.name)
        return Report(lm.info.name, LLAMA, [Row("logits", "holds")], {"blocks.0.attn.hook_z": "for the test"}, "cached")

    monkeypatch.setattr(opening, "check", counted)
    for _ in range(2):
        lm = opening.open_model(str(folder), "cpu", workspace)
        assert lm.way == "cached"
        assert lm.refused == {"blocks.0.attn.hook_z": "for the test"}
    assert len(times) == 1
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    opening.open_model(str(folder), "cpu", workspace)
    assert len(times) == 2


def test_a_model_that_is_refused_as_a_whole_does_not_open(tmp_path: Path, workspace: Workspace) -> None:
    write_tiny_model("BertLMHeadModel", tmp_path / "model")
    with pytest.raises(UserError, match="no causal language model") as error:
        opening.open_model(str(tmp_path / "model"), "cpu", workspace)
    assert error.value.field == "model"
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_table_is_none(tmp_path: Path) -> None:
    for content in ("", "[]", "{}", '{"format": 0}', '{"format": 1, "rows": [{"a": 1}]}'):
        (tmp_path / "report.json").write_text(content)
        assert Report.load(tmp_path / "report.json") is None
    assert Report.load(tmp_path / "none.json") is None
