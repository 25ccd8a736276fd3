"""Chat markup in texts: one setting decides how corpora, inspection and steering read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from app.worker import protocol
from app.worker.engine import Engine
from sae.data.corpus import prepare
from sae.lm.bridge import LanguageModel
from sae.lm.conformance.tiny_models import byte_tokenizer
from sae.specs.registry import ImportSpec, TrainSpec
from sae.steering.interventions import prompt_ids
from sae.steering.measurement_requests import InspectRequest
from sae.steering.python_program import SnippetSae, render
from sae.steering.request import parse_request
from sae.workspace.paths import Workspace
from tests.unit.sae.lm.test_slow_row_model import sae_for
from tests.unit.sae.lm.test_special_tokens import model_with

TEXT = "<s><|user|>hello there, how are you<|end|>"


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=True) for token in ("<|user|>", "<|end|>")])
    return model_with(tmp_path_factory.mktemp("chat") / "model", tokenizer)


@pytest.mark.parametrize("markup", [True, False])
def test_one_setting_has_one_meaning(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, markup: bool
) -> None:
    ids = lm.encode(TEXT, markup=markup)
    special = {token for token in ids if token in lm.special_ids}
    assert bool(special) == markup
    assert (len(ids) < 30) == markup
    workspace = Workspace(tmp_path / "home")
    monkeypatch.setenv("SAESCOPE_HOME", str(workspace.root))

    (tmp_path / "t.jsonl").write_text(f'{{"text": "{TEXT}"}}\n' * 3)
    corpus = prepare(str(tmp_path / "t.jsonl"), "text", "train", lm, 64, workspace, markup=markup)
    assert corpus.tokens[0, : corpus.length[0]].tolist() == [lm.bos_id, *ids]

    sae = sae_for(lm)
    if markup:
        sae.config["markup"] = True
    sae_id = str(sae.config["id"])
    request = parse_request({"model": "-", "prompt": TEXT, "interventions": [
        {"sae": sae_id, "layer": 1, "latent": 0, "mode": "ablate", "max_act": 1}]})
    assert prompt_ids(lm, request, [sae]) == [lm.bos_id, *ids]
    for choice in (True, False):  # of the request, over what the SAE says
        chosen = request.model_copy(update={"markup": choice})
        assert prompt_ids(lm, chosen, [sae]) == [lm.bos_id, *lm.encode(TEXT, markup=choice)]

    sae.save(workspace.sae(sae_id))
    sent: list[Any] = []
    engine = Engine(threads=1, memory_bytes=1 << 30, device="cpu")
    message = protocol.Inspect(
        request=InspectRequest(model=lm.info.source, saes=(sae_id,), texts=(TEXT,)),
        folders={sae_id: str(workspace.sae(sae_id))})
    import threading
    for _ in engine.begin(message, sent.append, threading.Event()):
        pass
    assert sent[-1].texts[0].ids == [lm.bos_id, *ids]


def test_the_settings_and_the_program_have_it() -> None:
    assert TrainSpec.model_fields["markup"].description == ImportSpec.model_fields["markup"].description
    request = parse_request({"model": "-", "prompt": TEXT, "interventions": [
        {"sae": "a/b", "layer": 1, "latent": 0, "mode": "ablate", "max_act": 1}]})
    for markup in (True, False):
        program = render(request, {"a/b": SnippetSae("f", "relu", "none", markup=markup)}, "m")
        assert program is not None
        assert f"split_special_tokens={not markup}" in program
        for choice in (True, False):
            chosen = request.model_copy(update={"markup": choice})
            program = render(chosen, {"a/b": SnippetSae("f", "relu", "none", markup=markup)}, "m")
            assert program is not None
            assert f"split_special_tokens={not choice}" in program
