"""Contexts on disk rebuild their documents, are found again, and are never left incomplete."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import sae.data.corpus
from sae.data.corpus import MIN_TEXT_TOKENS, Corpus, prepare
from sae.data.texts import SEPARATOR
from sae.errors import Cancelled, UserError
from sae.lm.bridge import LanguageModel
from sae.lm.model_info import DEMO_PATH
from sae.workspace.paths import Workspace


class Backed:
    """A tokenizer with a `backend_tokenizer`, like those of transformers."""

    def __init__(self) -> None:
        self.backend_tokenizer = Tokenizer.from_file(str(DEMO_PATH / "tokenizer.json"))

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size())


class DemoTokens:
    """The embedded model's tokenizer with the methods that `prepare` needs; no torch."""

    def __init__(self, bos_id: int = 0) -> None:
        self.bos_id = bos_id
        self.tokenizer: Any = Backed()

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [list(e.ids) for e in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False))


LM = DemoTokens()


def write_jsonl(folder: Path, texts: Sequence[str]) -> str:
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def make(text: str, root: Path, length: int = 16, **options: Any) -> Corpus:
    return prepare(text, "text", "train", LM, length, Workspace(root), **options)


def rebuilt(corpus: Corpus) -> dict[str, list[int]]:
    """Return each document's tokens, joined from its contexts by their offsets."""
    documents: dict[str, list[int]] = {}
    for row, length, doc, offset in zip(corpus.tokens, corpus.length, corpus.doc, corpus.offset, strict=True):
        ids = documents.setdefault(corpus.documents[doc], [])
        assert len(ids) == offset
        ids += row[1:length].tolist()
    return documents


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(lambda text: SEPARATOR not in text)


@settings(deadline=None, max_examples=30)
@given(texts=st.lists(words, min_size=1, max_size=6), length=st.integers(3, 24))
def test_contexts_rebuild_the_documents(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], length: int
) -> None:
    root = tmp_path_factory.mktemp("corpus")
    texts = ["always two contexts of any length " * 4, *texts]
    corpus = make(write_jsonl(root, texts), root, length)

    expected = {}
    for number, ids in enumerate(LM.encode_many(texts), 1):
        if len(ids) % (length - 1) < MIN_TEXT_TOKENS:  # only a last token alone may be dropped
            ids = ids[: len(ids) - len(ids) % (length - 1)]
        if ids:
            expected[f"t.jsonl#{number}"] = ids
    assert rebuilt(corpus) == expected
    assert corpus.n_tokens == sum(map(len, expected.values())) == corpus.info["tokens"]

    assert (corpus.tokens[:, 0] == LM.bos_id).all()
    assert (corpus.length >= 1 + MIN_TEXT_TOKENS).all()
    assert (corpus.length <= length).all()
    padding = np.arange(length)[None, :] >= corpus.length[:, None]
    assert (corpus.tokens[padding] == LM.bos_id).all()
    last_of_document = np.r_[corpus.doc[1:] != corpus.doc[:-1], True]
    assert (corpus.length[~last_of_document] == length).all()


def test_multi_byte_text_survives(tmp_path: Path) -> None:
    text = "naïve café – 日本語 🌍🌍 ⟨x⟩ " * 20
    corpus = make(write_jsonl(tmp_path, [text]), tmp_path, 9)
    assert text.startswith(LM.decode(rebuilt(corpus)["t.jsonl#1"])[:-1])


def test_a_long_document_is_read_in_pieces_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sae.data.corpus, "_PIECE_CHARACTERS", 50)
    monkeypatch.setattr(sae.data.corpus, "_BATCH_CHARACTERS", 100)
    text = "".join(f"line {i} of a long text\n" for i in range(40)) + "x" * 170
    corpus = make(write_jsonl(tmp_path, [text, "short one"]), tmp_path, 4)
    whole = LM.decode(rebuilt(corpus)["t.jsonl#1"])
    assert text.startswith(whole)
    assert len(text) - len(whole) <= 8


def test_every_kind_of_source_makes_a_corpus(tmp_path: Path) -> None:
    story = "Once there was a small story about very little. " * 6
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "a.txt").write_text(story)
    (tmp_path / "book" / "b.bin").write_bytes(b"\0\1")
    (tmp_path / "s.txt").write_text(f"{story}\n{SEPARATOR}\n{story}")
    assert make(str(tmp_path / "book"), tmp_path).documents == ["a.txt"]
    assert make(str(tmp_path / "s.txt"), tmp_path).documents == ["s.txt#0", "s.txt#1"]
    assert make(write_jsonl(tmp_path, [story, "", story]), tmp_path).documents == ["t.jsonl#1", "t.jsonl#3"]


def test_the_standard_library_is_a_corpus(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    corpus = make("stdlib", tmp_path, 128, progress=lambda done, total: seen.append((done, total)), max_tokens=200_000)
    assert 200_000 <= corpus.n_tokens < 320_000  # stops after the document that reaches the limit
    assert corpus.documents == sorted(corpus.documents, key=lambda name: Path(name))
    assert seen[-1][0] == seen[-1][1]
    assert corpus.id.startswith("stdlib-128-")


def test_the_same_call_finds_it_again_and_another_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = write_jsonl(tmp_path, ["some words to read again and again " * 9])
    first = make(text, tmp_path)

    class Mute(DemoTokens):
        def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
            raise AssertionError("read again")

    again = prepare(text, "text", "train", Mute(), 16, Workspace(tmp_path))
    assert again.id == first.id
    assert (again.tokens == first.tokens).all()
    ids = {first.id, make(text, tmp_path, 12).id, make(text, tmp_path, max_tokens=20).id,
           prepare(text, "text", "train", DemoTokens(bos_id=5), 16, Workspace(tmp_path)).id}
    write_jsonl(tmp_path, ["other words " * 30])
    assert len(ids | {make(text, tmp_path).id}) == 5


def test_a_damaged_corpus_is_refused_and_made_again(tmp_path: Path) -> None:
    text = write_jsonl(tmp_path, ["some words to read again and again " * 9])
    first = make(text, tmp_path)
    tokens = np.array(first.tokens)
    with open(first.path / "tokens.bin", "r+b") as file:
        file.truncate(10)
    with pytest.raises(UserError, match="not a complete corpus"):
        Corpus.open(first.path)
    assert (make(text, tmp_path).tokens == tokens).all()


def test_held_out_documents_are_those_whose_name_hashes_to_zero(tmp_path: Path) -> None:
    corpus = make(write_jsonl(tmp_path, [f"document {i} with a handful of words" for i in range(200)]), tmp_path)
    names = {name for name in corpus.documents if int(hashlib.sha1(name.encode()).hexdigest(), 16) % 20 == 0}
    assert 0 < len(names) < 40
    assert {corpus.documents[i] for i in corpus.doc[corpus.held_out]} == names
    assert not {corpus.documents[i] for i in corpus.doc[~corpus.held_out]} & names


def test_where_documents_are_few_every_twentieth_context_is_held_out(tmp_path: Path) -> None:
    corpus = make(write_jsonl(tmp_path, ["word " * 900]), tmp_path)
    assert np.flatnonzero(corpus.held_out).tolist() == list(range(0, corpus.n_contexts, 20))


def test_splits_partition_the_contexts_in_an_order_the_seed_decides(tmp_path: Path) -> None:
    corpus = make(write_jsonl(tmp_path, ["word " * 900]), tmp_path)
    train, held_out = corpus.contexts("train", 1), corpus.contexts("held_out", 1)
    assert train.dtype == np.int64
    assert sorted([*train, *held_out]) == list(range(corpus.n_contexts)) == sorted(corpus.contexts("all", 1))
    assert corpus.held_out[held_out].all()
    assert (corpus.contexts("train", 1) == train).all()
    assert (corpus.contexts("train", 2) != train).any()


@pytest.mark.parametrize("texts", [[""], ["", ""], ["one"], ["just a few words"]])
def test_too_little_text_is_refused_and_leaves_nothing(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(UserError, match="too little text") as caught:
        make(write_jsonl(tmp_path, texts), tmp_path)
    assert caught.value.field == "text"
    assert list((tmp_path / "corpora").iterdir()) == []


def test_a_token_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    class Wild(DemoTokens):
        def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
            return [[70_000] * 20 for _ in texts]

    with pytest.raises(UserError, match=r"token 70000 in .*the tokens 0 to 8191") as caught:
        prepare(write_jsonl(tmp_path, ["a"]), "text", "train", Wild(), 8, Workspace(tmp_path))
    assert caught.value.field == "model"


def test_text_that_spells_a_special_token_is_text(tmp_path: Path, demo_lm: LanguageModel) -> None:
    text = f"the string {SEPARATOR} stands in this line of a source file\n" * 4
    corpus = prepare(write_jsonl(tmp_path, [text, text]), "text", "train", demo_lm, 16, Workspace(tmp_path))
    inside = np.arange(1, 16)[None, :] < corpus.length[:, None]
    assert (corpus.tokens[:, 1:][inside] != demo_lm.bos_id).all()
    assert LM.decode(rebuilt(corpus)["t.jsonl#1"]) in text


def test_cancelling_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        make(write_jsonl(tmp_path, ["word " * 900]), tmp_path, cancelled=lambda: True)
    assert list((tmp_path / "corpora").iterdir()) == []


@pytest.mark.heavy
def test_a_kill_leaves_nothing_that_is_taken_for_a_corpus(tmp_path: Path) -> None:
    text = write_jsonl(tmp_path, ["word " * 900] * 4)
    script = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import sae.data.corpus
        from test_corpus import LM, Workspace, Path
        sae.data.corpus._BATCH_CHARACTERS = 1000
        def stall(done, total):
            print(done, flush=True)
            time.sleep(60)
        sae.data.corpus.prepare({text!r}, "text", "train", LM, 16, Workspace(Path({str(tmp_path)!r})), stall)
    """)
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline()  # it is in the middle of the text
    left = list((tmp_path / "corpora").iterdir())
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert [path.suffix for path in left] == [".tmp"]
    corpus = make(text, tmp_path)
    assert list((tmp_path / "corpora").iterdir()) == [corpus.path]
    assert corpus.info["created"] <= time.time()


# ---- repeated documents, chats, token ids


def split_of_texts(corpus: Corpus) -> dict[bytes, set[bool]]:
    """Return, for each context's text, the sides of held-out on which it stands."""
    sides: dict[bytes, set[bool]] = {}
    for row, length, held_out in zip(corpus.tokens, corpus.length, corpus.held_out, strict=True):
        sides.setdefault(row[:length].tobytes(), set()).add(bool(held_out))
    return sides


@pytest.mark.parametrize("n", [3, 60])
def test_identical_documents_are_never_on_both_sides_of_held_out(tmp_path: Path, n: int) -> None:
    texts = [" ".join(f"w{i * 97 + j}" for j in range(30)) for i in range(n)]
    corpus = make(write_jsonl(tmp_path, texts * 7), tmp_path)
    assert len(corpus.documents) == 7 * n
    assert all(len(sides) == 1 for sides in split_of_texts(corpus).values())
    assert 0 < corpus.held_out.sum() < corpus.n_contexts


def test_a_corpus_of_before_opens(tmp_path: Path) -> None:
    corpus = make(write_jsonl(tmp_path, [f"text number {i} " * 9 for i in range(5)]), tmp_path)
    (corpus.path / "same.npy").unlink()
    assert Corpus.open(corpus.path).held_out.tolist() == corpus.held_out.tolist()


class Chatty(Backed):
    chat_template = "a template"

    def apply_chat_template(self, messages: Any, **options: Any) -> list[int]:
        assert options["add_generation_prompt"] is False
        if messages[0]["role"] != "user":
            raise ValueError("must start with the user")
        text = "".join(f"<{m['role']}>{m['content']}" for m in messages)
        return [0, *self.backend_tokenizer.encode(text, add_special_tokens=False).ids]


def rows(folder: Path, column: str, values: Sequence[Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({column: value}) + "\n" for value in values))
    return str(path)


def test_chats_are_tokenised_by_the_template(tmp_path: Path) -> None:
    lm = DemoTokens()
    chat = [{"role": "user", "content": "What is a list?"}, {"role": "assistant", "content": "A sequence of items."}]
    path = rows(tmp_path, "messages", [chat, chat])
    with pytest.raises(UserError, match=r"rows.jsonl#1 is a chat, but .* no chat template") as caught:
        prepare(path, "messages", "train", lm, 64, Workspace(tmp_path))
    assert caught.value.field == "text_column"
    lm.tokenizer = Chatty()
    corpus = prepare(path, "messages", "train", lm, 64, Workspace(tmp_path))
    assert lm.decode(rebuilt(corpus)["rows.jsonl#1"]) == "<user>What is a list?<assistant>A sequence of items."
    assert (corpus.tokens[:, 1] != lm.bos_id).all()
    path = rows(tmp_path, "messages", [chat[1:], chat])
    with pytest.raises(UserError, match="must start with the user") as caught:
        prepare(path, "messages", "train", lm, 64, Workspace(tmp_path))
    assert caught.value.field == "text_column"


def test_token_ids_are_taken_as_they_are_and_cut_at_bos(tmp_path: Path) -> None:
    path = rows(tmp_path, "input_ids", [[0, 5, 6, 7, 0, 8, 9], [3, 4, 5]])
    corpus = prepare(path, "input_ids", "train", LM, 16, Workspace(tmp_path))
    assert rebuilt(corpus) == {"rows.jsonl#1.0": [5, 6, 7], "rows.jsonl#1.1": [8, 9], "rows.jsonl#2": [3, 4, 5]}
    for bad in (70_000, -1, 8192):
        path = rows(tmp_path, "input_ids", [[5, bad]])
        with pytest.raises(UserError, match=f"holds token {bad}, but the model has the tokens 0 to 8191") as caught:
            prepare(path, "input_ids", "train", LM, 16, Workspace(tmp_path))
        assert caught.value.field == "text_column"
