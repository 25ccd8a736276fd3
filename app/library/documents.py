"""A source document around a context: its tokens from the corpus, with a latent's activations from the build."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.render.token_text import Piece, text_pieces
from sae.data.corpus import Corpus
from sae.errors import UserError
from sae.store.build import Build
from sae.store.records import Context, Latent
from sae.store.schema import NEAR_BAND
from sae.workspace.paths import Workspace

WINDOW = 1200  # tokens shown at once


@dataclass(frozen=True)
class Place:
    """The peak of a stored context in the document: its token, counted from 0, and its activation."""

    context: Context
    token: int

    @property
    def name(self) -> str:
        """Return the name of the context in addresses: `<band>.<rank>`."""
        return f"{self.context.band}.{self.context.rank}"

    @property
    def near(self) -> bool:
        """Return whether the latent is silent there, just below what it takes to fire."""
        return self.context.band == NEAR_BAND


@dataclass(frozen=True)
class DocumentView:
    """The tokens `first` to `last` (exclusive) of a document of `n` tokens.

    `known` is the number of the latent's stored contexts in the document.  `acts` are its activations in them, and 0
    elsewhere.  `place` is the peak of the requested context, if it is stored; `others` are the peaks of the
    other stored contexts, in the order of the text.
    """

    name: str
    tokens: list[int]
    acts: list[float]
    pieces: list[Piece]
    first: int
    last: int
    n: int
    known: int
    place: Place | None
    others: list[Place]


def open_corpus(build: Build, workspace: Workspace) -> Corpus:
    """Open the text that a build was made from.  Raises UserError (field `text`) if it is not in the workspace."""
    corpus_id = str(build.meta.get("corpus") or "")
    folder = workspace.corpus(corpus_id) if corpus_id else None
    if folder is None or not folder.is_dir():
        raise UserError("The text that this index was built from is no longer in the workspace. "
                        "It comes back when the index is built again.", "text")
    return Corpus.open(folder)


def document_view(build: Build, corpus: Corpus, latent: Latent, ctx: int, first: int | None = None) -> DocumentView:
    """Return the document of context `ctx` from token `first` on, or by default around that context.

    Raises UserError (field `context`) if the text has no such context.
    """
    if not 0 <= ctx < corpus.n_contexts:
        raise UserError(f"context: the text has {corpus.n_contexts:,} contexts; there is no context {ctx}", "context")
    rows = np.flatnonzero(corpus.doc == corpus.doc[ctx])
    rows = rows[np.argsort(corpus.offset[rows])]
    bos = int(corpus.has_bos)  # positions of a context that are not text
    tokens = np.concatenate([corpus.tokens[row, bos : corpus.length[row]] for row in rows]).astype(np.int64)
    lengths = np.cumsum(corpus.length[rows].astype(np.int64) - bos)
    begin_of = dict(zip(rows.tolist(), [0, *lengths.tolist()], strict=False))  # each context's start in the document
    acts = np.zeros(len(tokens))
    known = [c for c in build.contexts(latent.latent) if corpus.doc[c.ctx] == corpus.doc[ctx]]
    places = []
    for context in known:
        begin = begin_of[context.ctx] + (context.start or 0) - bos  # the window's first token
        places.append(Place(context, begin + context.peak))
        for i, act in enumerate(context.acts):
            if act > 0 and 0 <= begin + i < len(acts):
                acts[begin + i] = act
    place = max((p for p in places if p.context.ctx == ctx), key=lambda p: p.context.act, default=None)
    start = max(0, min(begin_of[ctx] - WINDOW // 3 if first is None else first, max(len(tokens) - 1, 0)))
    stop = min(start + WINDOW, len(tokens))
    shown = tokens[start:stop].tolist()
    values = acts[start:stop].tolist()
    peak = place.token - start if place and start <= place.token < stop else None
    pieces = text_pieces(shown, build.vocabulary, values, latent.max_act or 0.0, start=start, peak=peak)
    others = sorted((p for p in places if p is not place), key=lambda p: p.token)
    return DocumentView(
        corpus.documents[int(corpus.doc[ctx])], shown, values, pieces, start, stop, len(tokens), len(known), place,
        others)
