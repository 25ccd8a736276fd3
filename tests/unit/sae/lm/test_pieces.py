"""Tokenizers that are Python programs: the bytes of their tokens, and texts read with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import ByT5Tokenizer

from sae.data.corpus import prepare
from sae.lm.pieces import python_pieces
from sae.workspace.paths import Workspace
from tests.unit.sae.lm.test_special_tokens import model_with

TEXT = "Un petit café — 水.\n"


def test_a_python_tokenizer_of_bytes_gives_every_text_back(tmp_path: Path) -> None:
    lm = model_with(tmp_path / "model", ByT5Tokenizer(extra_ids=0))
    pieces, special = lm.vocabulary()
    ids = lm.encode(TEXT)
    assert b"".join(pieces[i] for i in ids).decode() == TEXT
    assert pieces[ids[0]] == b"U"
    assert special[1]
    (tmp_path / "t.txt").write_text(TEXT * 20)
    corpus = prepare(str(tmp_path / "t.txt"), "text", "train", lm, 16, Workspace(tmp_path / "home"))
    assert corpus.tokens[0].tolist() == [1, *ids[:15]]  # its EOS stands in for BOS


class _Words:
    """A tokenizer of words whose pieces mark what continues one, as CTRL's do."""

    words = ("A", "little", "text@@", ",", "")

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [0, 1, 2]}

    def convert_ids_to_tokens(self, ids: Any) -> list[str]:
        return [self.words[i] for i in ids]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return " ".join(tokens).replace("@@", "")


def test_pieces_of_no_known_alphabet_are_what_the_tokenizer_says() -> None:
    assert python_pieces(_Words(), 5) == [b"A", b"little", b"text", b",", b""]


@pytest.mark.parametrize("token", [b"\xc3", b"\xa9"])
def test_parts_of_characters_keep_their_bytes(token: bytes) -> None:
    tokenizer = ByT5Tokenizer(extra_ids=0)
    assert token in python_pieces(tokenizer, len(tokenizer))
