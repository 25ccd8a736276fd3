"""Chats go through the model's own template, whose existence is known without loading the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.model_info import find_model
from sae.lm.prompts import has_chat_template
from sae.steering.interventions import prompt_ids
from sae.steering.request import ChatMessage, Intervention, SteerRequest

TEMPLATE = ("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
            "# {{ m.role }}\n{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}# answer\n{% endif %}")


def chat(*roles: str) -> SteerRequest:
    one = Intervention(sae="demo/x", layer=2, latent=0, max_act=1)
    messages = tuple(ChatMessage(role=role, content=f"said by {role}") for role in roles)  # type: ignore[arg-type]
    return SteerRequest(model="demo", chat=messages, interventions=(one,))


def test_a_chat_is_written_by_the_template(demo_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no chat template") as none:
        prompt_ids(demo_lm, chat("user"))
    assert none.value.field == "chat"
    monkeypatch.setattr(demo_lm.tokenizer, "chat_template", TEMPLATE)
    expected = "# user\nsaid by user\n# assistant\nsaid by assistant\n# user\nsaid by user\n# answer\n"
    ids = prompt_ids(demo_lm, chat("user", "assistant", "user"))
    pieces = demo_lm.vocabulary()[0]
    assert ids[0] == demo_lm.bos_id
    assert b"".join(pieces[i] for i in ids[1:]).decode() == expected
    with pytest.raises(UserError, match="no system") as refused:
        prompt_ids(demo_lm, chat("system", "user"))
    assert refused.value.field == "chat"


def test_whether_a_model_can_chat_is_read_from_its_files(tmp_path: Path) -> None:
    demo = find_model("demo")
    assert not has_chat_template(demo)
    here = replace(demo, source=str(tmp_path), local=True)
    assert not has_chat_template(here)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    assert has_chat_template(here)
    (tmp_path / "tokenizer_config.json").write_text("broken")
    assert not has_chat_template(here)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    assert has_chat_template(here)
