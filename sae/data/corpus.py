"""Text as token contexts on disk, memory-mapped.  No torch.

Each document is tokenised separately and cut into contexts of S positions: BOS, then S - 1 text tokens, or S text
tokens in a corpus without BOS.  The last context of a document may be shorter; it is padded on the right, and its real
length is stored.  The first position of a context is never counted in a statistic: it is BOS, or a token that sees no
text before it.  Documents are never joined.  A context needs two text tokens, so a document's last token is dropped if
it would be alone.  A chat is tokenised by the tokenizer's chat template.  Token ids are taken as they are, and cut into
documents at every BOS.

    tokens.bin      uint16 (uint32 for vocabularies over 65,536) [contexts, S]
    length.npy      int32 [contexts], real positions, BOS counted
    doc.npy         int32 [contexts], index into documents.json
    offset.npy      int64 [contexts], index in its document of the token at position 1
    same.npy        int32 [documents], the first document with the same tokens: a document's own number, or a lower one
    documents.json  names of the documents that have contexts
    corpus.json     counts, the source of the text, fingerprints

A corpus is written in a temporary folder that is renamed when it is complete.  Its id is made of everything that
decides its content, so the same call finds it again.  A killed process leaves nothing that could be taken for a
corpus.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sae.data.documents import Document
from sae.data.texts import TextSource, find_text
from sae.errors import Cancelled, UserError
from sae.workspace.files import atomic_write, write_json
from sae.workspace.paths import Workspace, slug

Split = Literal["train", "held_out", "all"]

SCHEMA_VERSION = 2  # 2: `same.npy`
MIN_TEXT_TOKENS = 2
# Tokens read from a source that is too large to read to its end, if `max_tokens` is not given.
ENDLESS_TOKENS = 20_000_000
# A twentieth is held out: of the documents, or of the contexts if documents are few.
HELD_OUT_OF = 20
_FEW_DOCUMENTS = 40
_BATCH_CHARACTERS = 1_000_000
# A longer document is tokenised in pieces cut after line ends, to bound memory.
_PIECE_CHARACTERS = 1_000_000
_NO_TOKENS = np.zeros(0, dtype=np.int64)


class Tokenises(Protocol):
    """The part of a language model that is needed here; `sae.lm.bridge.LanguageModel` provides it."""

    bos_id: int
    tokenizer: Any

    def encode_many(self, texts: Sequence[str], *, markup: bool = False) -> list[list[int]]: ...


@dataclass(frozen=True)
class Corpus:
    """A finished corpus.  N contexts of S positions."""

    path: Path
    tokens: NDArray[Any]  # [N, S], memory-mapped, read-only
    length: NDArray[np.int32]  # [N]: tokens[i, : length[i]] is real, BOS included
    doc: NDArray[np.int32]  # [N]
    offset: NDArray[np.int64]  # [N]: tokens[i, 1] is token offset[i] of its document
    documents: list[str]
    held_out: NDArray[np.bool_]  # [N]
    info: dict[str, Any] = field(repr=False)  # corpus.json

    @classmethod
    def open(cls, path: Path) -> Corpus:
        """Open a finished corpus.  Raises UserError (field `text`) if `path` has none."""
        try:
            info = json.loads((path / "corpus.json").read_text(encoding="utf-8"))
            documents = json.loads((path / "documents.json").read_text(encoding="utf-8"))
            length, doc, offset = (np.load(path / f"{name}.npy") for name in ("length", "doc", "offset"))
            shape = (int(info["contexts"]), int(info["context_length"]))
            dtype = np.dtype(info["dtype"])
            if (path / "tokens.bin").stat().st_size != shape[0] * shape[1] * dtype.itemsize:
                raise ValueError("tokens.bin has the wrong size")
            tokens = np.memmap(path / "tokens.bin", dtype=dtype, mode="r", shape=shape)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"text: {path} is not a complete corpus: {error}", "text") from None
        # A corpus of before has no `same.npy`: each of its documents counts as different.
        same = np.load(path / "same.npy") if (path / "same.npy").exists() else np.arange(len(documents))
        return cls(path, tokens, length, doc, offset, documents, _held_out(documents, doc, same), info)

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def context_length(self) -> int:
        return int(self.tokens.shape[1])

    @property
    def n_contexts(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def has_bos(self) -> bool:
        """Return whether every context begins with BOS."""
        return bool(self.info.get("bos", True))

    @property
    def n_tokens(self) -> int:
        """Count the tokens without the first position of each context and without padding."""
        return int(self.length.sum()) - self.n_contexts

    def contexts(self, split: Split, seed: int) -> NDArray[np.int64]:
        """Return the numbers of the split's contexts, in an order that `seed` alone decides."""
        chosen = {"train": ~self.held_out, "held_out": self.held_out, "all": np.ones_like(self.held_out)}[split]
        return np.random.default_rng(seed).permutation(np.flatnonzero(chosen)).astype(np.int64)


def prepare(
    text: str,
    column: str,
    split: str,
    lm: Tokenises,
    context_length: int,
    workspace: Workspace,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    *,
    max_tokens: int | None = None,
    bos: bool = True,
    markup: bool = False,
) -> Corpus:
    """Return the corpus of `text` (see `sae.data.texts`), made now or found in the workspace.

    `progress(done_documents, total_documents)` is called as the work proceeds, with total 0 if it is unknown.
    `max_tokens` stops after the document that reaches this number of text tokens; a Hugging Face data set stops at 20
    million by default.  `bos` says whether contexts begin with BOS.  `markup` says whether special tokens that are
    spelled in a text are read as these tokens.  Raises UserError (field `text`, `text_column` or `text_split`; `model`
    or `bos` for a tokenizer that does not fit) for a text that cannot be used, and Cancelled if `cancelled()` is true.
    """
    if bos and not getattr(lm, "has_bos", True):
        raise UserError("bos: the tokenizer of this model has no BOS and no EOS token within its embedding, so "
                        "contexts cannot begin with one; set bos to no", "bos")
    source = find_text(text, column, split)
    limit = ENDLESS_TOKENS if max_tokens is None and source.endless else max_tokens
    tokeniser = tokeniser_fingerprint(lm)
    template = str(getattr(lm.tokenizer, "chat_template", None) or "")
    path = workspace.corpus(_corpus_id(source, tokeniser + template, context_length, limit, bos, markup))
    if path.exists():
        try:
            return Corpus.open(path)
        except UserError:  # damaged from outside; it can be made again
            shutil.rmtree(path)
    try:
        with atomic_write(path) as temporary:
            temporary.mkdir()
            with open(temporary / "tokens.bin", "wb") as file:
                writer = _Writer(file, context_length, lm.bos_id, _vocabulary(lm), bos)
                _read_all(source, lm, writer, limit, progress, cancelled, markup=markup)
            writer.finish(temporary, {
                "schema_version": SCHEMA_VERSION, "id": path.name, "text": text, "kind": source.kind, "column": column,
                "split": split, "fingerprint": source.fingerprint, "tokeniser_fingerprint": tokeniser,
                "max_tokens": limit, "bos": bos, "markup": markup, "created": time.time()})
    except OSError:
        if not path.exists():  # otherwise another process was faster, and its corpus is used
            raise
    return Corpus.open(path)


def tokeniser_fingerprint(lm: Tokenises) -> str:
    """Return a digest of the vocabulary, the rules that split text, and the BOS id."""
    backend = getattr(lm.tokenizer, "backend_tokenizer", None)
    if backend is None:
        state = dict(sorted(lm.tokenizer.get_vocab().items()))
    else:
        state = json.loads(backend.to_str())
        for changes_with_use in ("truncation", "padding"):
            state.pop(changes_with_use, None)
    return hashlib.sha256(json.dumps([state, lm.bos_id], sort_keys=True).encode()).hexdigest()[:32]


# ---- from documents to contexts


def _read_all(
    source: TextSource,
    lm: Tokenises,
    writer: _Writer,
    limit: int | None,
    progress: Callable[[int, int], None] | None,
    cancelled: Callable[[], bool] | None,
    *,
    markup: bool,
) -> None:
    total = source.count()
    done = 0
    for documents in _batches(source.documents()):
        if cancelled is not None and cancelled():
            raise Cancelled("stopped while reading the text")
        pieces = [_pieces(document.text) for document in documents]
        ids = _encode(lm, [piece for parts in pieces for piece in parts], markup)
        for document, parts in zip(documents, pieces, strict=True):
            if document.ids is not None:
                _add_ids(document, document.ids, lm, writer)
            elif document.messages is not None:
                writer.add(document.name, np.array(_chat_ids(document, lm), dtype=np.int64))
            else:
                writer.add(document.name, np.concatenate([_NO_TOKENS, *(next(ids) for _ in parts)]))
            done += 1
            if limit is not None and writer.n_tokens >= limit:
                total = done
                break
        if progress is not None:
            progress(done, max(done, total) if total else 0)
        if limit is not None and writer.n_tokens >= limit:
            return


def _chat_ids(document: Document, lm: Tokenises) -> list[int]:
    """Return the tokens of a chat by the tokenizer's template, without BOS at the start.

    Raises UserError (field `text_column`) if the tokenizer has no template or its template rejects the messages.
    """
    if not getattr(lm.tokenizer, "chat_template", None):
        raise UserError(f"text_column: {document.name} is a chat, but the model's tokenizer has no chat template; give "
                        "a column of text, or a model that chats", "text_column")
    try:
        ids = list(lm.tokenizer.apply_chat_template(
            document.messages, add_generation_prompt=False, tokenize=True, return_dict=False))
    except Exception as error:  # templates are programs and can raise anything
        raise UserError(f"text_column: {document.name}: the model's chat template refuses these messages: {error}",
                        "text_column") from error
    return ids[1:] if ids[:1] == [lm.bos_id] else ids


def _add_ids(document: Document, ids: list[int], lm: Tokenises, writer: _Writer) -> None:
    """Add token ids as documents, cut at every BOS, as rows of several joined documents are."""
    row = np.array(ids, dtype=np.int64)
    if len(row) and not 0 <= row.min() <= row.max() < _vocabulary(lm):
        raise UserError(f"text_column: {document.name} holds token {int(row.min() if row.min() < 0 else row.max())}, "
                        f"but the model has the tokens 0 to {_vocabulary(lm) - 1}: it was tokenised for another model",
                        "text_column")
    parts = [part[part != lm.bos_id] for part in np.split(row, np.flatnonzero(row == lm.bos_id))]
    parts = [part for part in parts if len(part)]
    for number, part in enumerate(parts):
        writer.add(document.name if len(parts) == 1 else f"{document.name}.{number}", part)


def _encode(lm: Tokenises, pieces: list[str], markup: bool) -> Iterator[NDArray[np.int64]]:
    """Yield the token ids of every piece, a few long pieces at a time because lists of Python integers are large."""
    start = 0
    while start < len(pieces):
        end, size = start, 0
        while end < len(pieces) and (size == 0 or size + len(pieces[end]) <= 2 * _BATCH_CHARACTERS):
            size += len(pieces[end])
            end += 1
        part = pieces[start:end]
        for ids in lm.encode_many(part, markup=True) if markup else lm.encode_many(part):
            yield np.array(ids, dtype=np.int64)
        start = end


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Yield documents in lists of about a million characters: enough to keep every core busy."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.size
        if size >= _BATCH_CHARACTERS or len(batch) >= 4096:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _pieces(text: str) -> list[str]:
    """Return `text` whole, or cut after line ends if it is very long (anywhere if it has no line ends)."""
    pieces = []
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        end = text.rfind("\n", start, start + _PIECE_CHARACTERS) + 1 or start + _PIECE_CHARACTERS
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]] if start < len(text) else pieces


def _held_out(documents: list[str], doc: NDArray[np.int32], same: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which contexts are held out from training: by document, so that no text is on both sides.

    A document that repeats an earlier one goes where that one goes.
    """
    names = np.array([int(hashlib.sha1(name.encode()).hexdigest(), 16) % HELD_OUT_OF == 0 for name in documents])
    if len(documents) >= _FEW_DOCUMENTS and names[same].any():
        return np.asarray(names[same][doc], dtype=np.bool_)
    # Identical documents have equally many contexts, so each context has its equal in the first of them.
    start = np.searchsorted(doc, np.arange(len(documents)))
    first = start[same[doc]] + np.arange(len(doc)) - start[doc] if len(doc) else np.arange(0)
    return np.asarray(first % HELD_OUT_OF == 0, dtype=np.bool_)


class _Writer:
    """A writer that appends documents to the tokens of one corpus and keeps the facts about its contexts."""

    def __init__(self, file: BinaryIO, context_length: int, bos_id: int, vocabulary: int, bos: bool) -> None:
        self.file = file  # receives the tokens
        self.bos_id = bos_id  # also the padding
        self.first = 1 if bos else 0  # position of a context's first text token
        self.vocabulary = vocabulary
        self.dtype = np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)
        self.context_length = context_length
        self.documents: list[str] = []
        self.n_tokens = 0
        self.length: list[NDArray[np.int32]] = []
        self.doc: list[NDArray[np.int32]] = []
        self.offset: list[NDArray[np.int64]] = []
        self.same: list[int] = []
        self._seen: dict[bytes, int] = {}  # digest of a document's tokens -> the first such document

    def add(self, name: str, ids: NDArray[np.int64]) -> None:
        """Cut one document's tokens into contexts and append them."""
        body = self.context_length - self.first
        if len(ids) % body < MIN_TEXT_TOKENS:  # the rest is too short for a context
            ids = ids[: len(ids) - len(ids) % body]
        n_contexts = -(-len(ids) // body)
        if n_contexts == 0:
            return
        if int(ids.max()) >= self.vocabulary:
            raise UserError(
                f"model: its tokenizer makes token {int(ids.max())} in {name}, but the model has the tokens 0 to "
                f"{self.vocabulary - 1}; give a model whose embedding has a row for every token", "model")
        rows_NS = np.full((n_contexts, self.context_length), self.bos_id, dtype=self.dtype)
        padded = np.full(n_contexts * body, self.bos_id, dtype=self.dtype)
        padded[: len(ids)] = ids
        rows_NS[:, self.first :] = padded.reshape(n_contexts, body)
        rows_NS.tofile(self.file)
        start = np.arange(n_contexts, dtype=np.int64) * body
        self.length.append((np.minimum(len(ids) - start, body) + self.first).astype(np.int32))
        self.doc.append(np.full(n_contexts, len(self.documents), dtype=np.int32))
        self.offset.append(start + 1 - self.first)
        self.same.append(self._seen.setdefault(hashlib.sha256(ids.tobytes()).digest()[:16], len(self.documents)))
        self.documents.append(name)
        self.n_tokens += len(ids)

    def finish(self, folder: Path, info: dict[str, Any]) -> None:
        """Write everything but the tokens, `corpus.json` last.  Raises UserError (field `text`) for too little text."""
        n_contexts = sum(map(len, self.length))
        if n_contexts < 2:
            raise UserError(
                f"text: {info['text']} is too little text: its {self.n_tokens} tokens make {n_contexts} contexts of "
                f"{self.context_length}, and at least two are needed, one to train on and one to hold out", "text")
        for name in ("length", "doc", "offset"):
            np.save(folder / f"{name}.npy", np.concatenate(getattr(self, name)))
        np.save(folder / "same.npy", np.array(self.same, dtype=np.int32))
        write_json(folder / "documents.json", self.documents)
        write_json(folder / "corpus.json", {
            **info, "contexts": n_contexts, "context_length": self.context_length, "documents": len(self.documents),
            "tokens": self.n_tokens, "bos_id": self.bos_id, "dtype": self.dtype.name})


# ---- identity


def _vocabulary(lm: Tokenises) -> int:
    """Return the number of tokens that the model has an embedding for."""
    info = getattr(lm, "info", None)
    return int(info.d_vocab) if info is not None else len(lm.tokenizer)


def _corpus_id(
    source: TextSource, tokeniser: str, context_length: int, limit: int | None, bos: bool, markup: bool,
) -> str:
    """Return the corpus's name, for people, followed by a digest of everything that decides the content."""
    facts = [SCHEMA_VERSION, source.kind, source.name, source.fingerprint, tokeniser, context_length, limit]
    key = json.dumps([*facts, *["without BOS"] * (not bos), *["markup"] * markup])
    last = re.split(r"[/\\]", source.name.rstrip("/\\"))[-1]
    return f"{slug(last)[:40].rstrip('-._')}-{context_length}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
