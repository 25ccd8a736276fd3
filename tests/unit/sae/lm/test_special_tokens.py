"""Tokenizers as people bring them: what they call special, begin with and end with, and what the model lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from sae.data.corpus import prepare
from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.conformance.tiny_models import byte_tokenizer, write_tiny_model
from sae.lm.row_model import RowModel
from sae.lm.special_tokens import has_own_bos
from sae.steering.generation import Run, write
from sae.steering.interventions import Steering, prompt_ids
from sae.steering.request import Intervention, Sampling, parse_request
from sae.workspace.paths import Workspace
from tests.unit.sae.lm.test_slow_row_model import sae_for

TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"


def model_with(folder: Path, tokenizer: Any, generation: dict[str, Any] | None = None) -> LanguageModel:
    """A tiny model with this tokenizer, and with `generation_config.json` where given."""
    write_tiny_model("LlamaForCausalLM", folder)
    for file in folder.glob("*token*"):
        file.unlink()
    tokenizer.save_pretrained(folder)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return LanguageModel.load(str(folder), "cpu")


def without_roles() -> Any:
    """The tokenizer of bytes, without BOS, EOS and padding."""
    return PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer().backend_tokenizer)


def test_added_tokens_stand_for_their_own_text(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["café", "ñandú"])
    lm = model_with(tmp_path, tokenizer)
    pieces, special = lm.vocabulary()
    (token,) = lm.encode("café")
    assert pieces[token].decode() == "café"
    assert not special[token]
    assert b"".join(pieces[i] for i in lm.encode("un ñandú à pied")).decode() == "un ñandú à pied"


def test_special_tokens_of_the_tokenizer_file_alone_are_special(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<|user|>", special=True), "<|plain|>"])
    lm = model_with(tmp_path, tokenizer)
    (header,), (plain,) = lm.encode("<|user|>", markup=True), lm.encode("<|plain|>", markup=True)
    assert header in lm.special_ids
    assert plain not in lm.special_ids
    assert lm.vocabulary()[1][header]
    assert not Steering([], {}, None, lm.special_ids).changes(header, 3, 2)


def test_a_text_stops_at_every_end_that_the_model_lists(tmp_path: Path) -> None:
    lm = model_with(tmp_path, byte_tokenizer(), {"eos_token_id": [1, 77]})
    assert lm.end_ids == {1, 77}
    model = RowModel(lm)
    one = Intervention(sae="m/s", layer=1, latent=3, max_act=4.0)
    steering = Steering([one], {"m/s": sae_for(lm)})

    def written() -> Any:
        run = Run([0, 40, 41], steering, None, Sampling(temperature=0, length=12), ["baseline"])
        for _ in write(model, run):
            pass
        return run.columns[0]

    whole = written()
    end = whole.output[4]
    lm.end_ids = frozenset({1, end})
    stopped = written()
    assert stopped.finish == "eos"
    assert stopped.output == whole.output[: whole.output.index(end) + 1]


def test_a_tokenizer_larger_than_the_embedding_is_said_to_be(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<{i}>" for i in range(60)])
    lm = model_with(tmp_path, tokenizer)
    lm.encode("plain text")
    for attempt in (lambda: lm.encode("<59>"), lambda: lm.encode_many(["a", "<59>"])):
        with pytest.raises(UserError, match=r"makes token 318 .* 300 embeddings") as error:
            attempt()
        assert error.value.field == "model"


def test_without_bos_and_eos_in_the_embedding_texts_are_read_without(tmp_path: Path) -> None:
    tokenizer = without_roles()
    tokenizer.add_tokens([f"<{i}>" for i in range(60)])
    lm = model_with(tmp_path / "model", tokenizer)
    assert lm.start == []
    text = tmp_path / "text.txt"
    text.write_text("some text\n" * 20)
    with pytest.raises(UserError, match="contexts cannot begin with one; set bos to no") as error:
        prepare(str(text), "text", "train", lm, 16, Workspace(tmp_path / "home"))
    assert error.value.field == "bos"
    corpus = prepare(str(text), "text", "train", lm, 16, Workspace(tmp_path / "home"), bos=False)
    assert corpus.tokens[0].tolist() == lm.encode("some text\nsome t")
    request = parse_request({"model": "-", "prompt": "some", "interventions": [
        {"sae": "tiny/x", "layer": 1, "latent": 0, "mode": "ablate", "max_act": 1}]})
    assert prompt_ids(lm, request) == lm.encode("some")


@pytest.mark.parametrize("own", [True, False])
def test_a_chat_begins_with_bos_only_where_the_tokenizer_has_one(tmp_path: Path, own: bool) -> None:
    tokenizer = byte_tokenizer() if own else without_roles()
    if not own:
        tokenizer.eos_token = "</s>"
    tokenizer.add_tokens([AddedToken("<|user|>", special=True)])
    tokenizer.chat_template = TEMPLATE
    lm = model_with(tmp_path, tokenizer)
    assert has_own_bos(lm.tokenizer) == own
    ids = lm.chat_ids([{"role": "user", "content": "hi"}])
    assert ids == [*([0] if own else []), *lm.encode("<|user|>hi", markup=True)]
