"""Model folders with a `tokenizer.model` alone: read as sentencepiece reads it, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.conformance.tiny_models import tiny_config, write_tiny_model
from sae.lm.sentencepiece_file import sentencepiece_tokenizer

TEXTS = ["Hello line 3  of text", " x\ny  z ", "Ünï 水 🙂", "x4 x9 and x16", "a<turn>b <turn> c"]
RULES: dict[str, dict[str, Any]] = {
    "usual": {}, "without a space before": {"add_dummy_prefix": False},
    "spaces kept": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "symbols": {"user_defined_symbols": ["<turn>"], "add_dummy_prefix": False,
                "remove_extra_whitespaces": False}}


def write(folder: Path, kind: str, **rules: Any) -> SentencePieceProcessor:
    lines = (f"line {i} of the little text, with x{i * i} and Ünïcode and more  spaces" for i in range(300))
    folder.mkdir(exist_ok=True)
    SentencePieceTrainer.train(
        sentence_iterator=lines, model_prefix=str(folder / "tokenizer"), vocab_size=310, model_type=kind,
        byte_fallback=True, minloglevel=2, hard_vocab_limit=False, **rules)
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("rules", RULES)
def test_tokens_are_those_of_sentencepiece(tmp_path: Path, kind: str, rules: str) -> None:
    processor = write(tmp_path, kind, **RULES[rules])
    tokenizer = sentencepiece_tokenizer(tmp_path, "it")
    for text in TEXTS:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == processor.encode(text), text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (processor.bos_id(), processor.eos_id())


def test_a_model_is_read_with_it(tmp_path: Path) -> None:
    config = tiny_config("LlamaForCausalLM")
    config.vocab_size = 330
    write_tiny_model("LlamaForCausalLM", tmp_path, config)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    processor = write(tmp_path, "bpe")
    lm = LanguageModel.load(str(tmp_path), "cpu")
    assert lm.encode("of the text") == processor.encode("of the text")
    assert lm.encode_many(["of <s>", "x"]) == [processor.encode("of <s>"), processor.encode("x")]
    assert lm.bos_id == processor.bos_id()
    assert b"".join(lm.vocabulary()[0][i] for i in lm.encode("Ünï 水")).decode() == " Ünï 水"
    assert lm.share_weights().encode("x") == lm.encode("x")


def test_a_folder_that_has_more_is_left_to_the_library(tmp_path: Path) -> None:
    assert sentencepiece_tokenizer(tmp_path, "it") is None
    (tmp_path / "tokenizer.model").write_bytes(b"of another kind")
    with pytest.raises(UserError, match="is no sentencepiece model"):
        sentencepiece_tokenizer(tmp_path, "it")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert sentencepiece_tokenizer(tmp_path, "it") is None


def test_a_file_that_would_be_read_differently_is_refused(tmp_path: Path) -> None:
    # The tokenizers library would put a space behind the symbol.
    write(tmp_path, "bpe", user_defined_symbols=["<turn>"])
    with pytest.raises(UserError, match="differently here than in sentencepiece") as error:
        sentencepiece_tokenizer(tmp_path, "it")
    assert error.value.field == "model"
