"""Loading of models: number formats, code of their own, adapters, and steering without a second copy."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.conformance.check import check
from sae.lm.conformance.opening import open_model, report_path
from sae.lm.conformance.tiny_models import write_tiny_model
from sae.lm.model_info import find_model
from sae.lm.slow_row_model import open_row_model
from sae.workspace.paths import Workspace

TOKENS = [0, *range(5, 25)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("llama") / "base"
    write_tiny_model("LlamaForCausalLM", folder)
    return folder


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_in_half_precision_is_checked_read_and_edited(
    llama: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    exact = LanguageModel.load(str(llama), "cpu")
    monkeypatch.setenv("SAESCOPE_MODEL_DTYPE", dtype)
    lm = LanguageModel.load(str(llama), "cpu")
    assert {str(tensor.dtype) for tensor in lm.bridge.original_model.parameters()} == {f"torch.{dtype}"}
    report = check(lm)
    assert not report.error
    assert not lm.refused
    tokens, hook = torch.tensor([TOKENS]), "blocks.2.hook_resid_mid"
    x, y = (one.activations(tokens, hook) for one in (lm, exact))
    assert x.dtype == torch.float32
    assert not torch.equal(x, y)
    assert torch.allclose(x, y, atol=0.1 * float(y.std()), rtol=0.05)
    seen: list[torch.dtype] = []

    def edit(x: Any) -> Any:
        seen.append(x.dtype)
        return torch.zeros_like(x)

    rows = open_row_model(lm)
    assert torch.allclose(rows.read(TOKENS, {hook: edit}), lm.logits(tokens, {hook: edit})[0, -1], atol=0.2)
    assert set(seen) == {torch.float32}
    assert torch.allclose(lm.unembedding(), exact.unembedding(), atol=0.05)


def test_tables_of_different_formats_are_kept_apart(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = set()
    for dtype in ("float32", "bfloat16"):
        monkeypatch.setenv("SAESCOPE_MODEL_DTYPE", dtype)
        paths.add(report_path(LanguageModel.load(str(llama), "cpu"), Workspace(tmp_path)))
    assert len(paths) == 2


def test_code_of_a_model_runs_only_with_leave(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "own"
    shutil.copytree(llama, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.OwnConfig", "AutoModelForCausalLM": "code.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n")
    with pytest.raises(UserError, match="Python code of its own, which runs only if SAESCOPE_REMOTE_CODE=1"):
        LanguageModel.load(str(folder), "cpu")
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("SAESCOPE_REMOTE_CODE", "1")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with contextlib.suppress(UserError):  # transformer_lens may not know the architecture
        LanguageModel.load(str(folder), "cpu")
    assert (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_lora_adapter_is_its_base_model_with_the_adapter(llama: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(llama)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    for name, tensor in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, std=0.5)
    model.save_pretrained(tmp_path / "tuned")
    expected = model.eval()(torch.tensor([TOKENS])).logits.detach()

    info = find_model(str(tmp_path / "tuned"))
    assert (info.id, info.n_layers, info.source) == ("tuned", 4, str(llama))
    lm = open_model(str(tmp_path / "tuned"), "cpu", Workspace(tmp_path / "home"))
    assert not lm.refused
    assert torch.allclose(lm.logits(torch.tensor([TOKENS])), expected, atol=1e-4)
    plain = LanguageModel.load(str(llama), "cpu").logits(torch.tensor([TOKENS]))
    assert not torch.allclose(plain, expected, atol=0.1)
    assert torch.allclose(open_row_model(lm).read(TOKENS), expected[0, -1], atol=1e-3)


@pytest.mark.parametrize(("config", "said"), [({}, "does not name the adapter's base model"),
                                              ({"base_model_name_or_path": "."}, "has no config.json")])
def test_an_adapter_without_a_base_is_refused(tmp_path: Path, config: dict[str, str], said: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=said) as error:
        find_model(str(tmp_path))
    assert error.value.field == "model"
