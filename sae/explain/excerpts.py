"""Excerpts of contexts as a language model sees them: a few tokens around one position, with marks.  No torch.

The documents are divided into two halves by a hash of their names.  Explanations are made from one half and scored on
the other, so no text helps to score what was made from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sae.lm.tokens import spans
from sae.store.records import Context, Vocabulary

BEFORE, AFTER = 20, 11  # tokens of an excerpt before and after its centre
MARKS = ("⟦", "⟧")  # they hardly occur in text, unlike << and >>


def in_scoring_half(document: str) -> bool:
    """Return whether a document is for scoring; the others are for explaining."""
    return bool(hashlib.blake2b(document.encode(), digest_size=1, person=b"explain").digest()[0] & 1)


def document_of(context: Context) -> str:
    """Return the document of a context; one without a name counts as its own document."""
    return context.document or f"context {context.ctx}"


@dataclass(frozen=True)
class Excerpt:
    """Some tokens of one context.  `acts` is aligned with `pieces`; `centre` is an index into both.

    `start` is the position of the first token in its context, or None if it is unknown.
    """

    document: str
    ctx: int
    start: int | None
    tokens: tuple[int, ...]
    pieces: tuple[bytes, ...]
    acts: tuple[float, ...]
    centre: int
    band: int = 0

    @property
    def active(self) -> frozenset[int]:
        """The indices at which the latent fires."""
        return frozenset(i for i, act in enumerate(self.acts) if act > 0)

    def text(self, marked: Collection[int] = ()) -> str:
        """Return the text with runs of `marked` tokens between marks.  No character is divided."""
        out, inside = [], False
        for span in spans(self.pieces):
            mark = any(i in marked for i in range(span.start, span.end))
            if mark != inside:
                out.append(MARKS[0] if mark else MARKS[1])
                inside = mark
            out.append(span.text)
        return "".join(out) + (MARKS[1] if inside else "")

    def words(self) -> list[tuple[str, float]]:
        """Return the pieces of text that tokens form, each with its largest activation."""
        return [(span.text, max(self.acts[span.start : span.end])) for span in spans(self.pieces)]


def cut(
    tokens: Sequence[int], acts: Sequence[float], centre: int, vocabulary: Vocabulary, document: str, ctx: int,
    start: int | None, band: int = 0,
) -> Excerpt:
    """Cut an excerpt around `centre` out of the tokens of a context, without special tokens such as BOS."""
    low, high = max(0, centre - BEFORE), min(len(tokens), centre + AFTER + 1)
    kept = [i for i in range(low, high) if not vocabulary[tokens[i]].special or i == centre]
    return Excerpt(
        document, ctx, None if start is None else start + kept[0], tuple(tokens[i] for i in kept),
        tuple(vocabulary[tokens[i]].piece or f"⟨{tokens[i]}⟩".encode() for i in kept),
        tuple(float(acts[i]) for i in kept), kept.index(centre), band)


def cut_context(context: Context, vocabulary: Vocabulary) -> Excerpt:
    """Cut an excerpt around the peak of a context."""
    return cut(context.tokens, context.acts, context.peak, vocabulary, document_of(context), context.ctx,
               context.start, context.band)


def cut_out(texts: Sequence[Excerpt], others: Sequence[Excerpt]) -> list[Excerpt]:
    """Return the excerpts whose tokens are in none of `others`: copies of a text are in several documents."""
    seen = {excerpt.tokens for excerpt in others}
    return [excerpt for excerpt in texts if excerpt.tokens not in seen]
