"""Rows of corpus text as HTML.  Pages hold thousands of tokens, so this is not left to a template.

A token that fires has its tooltip in `title`.  The others' is put together in the browser
(`static/js/app.js`) from the row's `data-ids`, the ids of all its tokens (`+` joins those of one
piece), and `data-at`, the position of the first; which takes a third of the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby

from markupsafe import Markup, escape

from app.tokens_view import Piece, Row

_CUT = '<span class="cut">…</span>'


def pieces_html(pieces: Iterable[Piece], newlines: bool = False) -> Markup:
    """The pieces, one after the other; with `newlines` a line is broken where the text breaks it."""
    return Markup("".join([
        _piece(piece, newlines) if piece.css or piece.title or (newlines and piece.breaks) else
        _silent(piece.text, piece.space) for piece in pieces]))


def _piece(piece: Piece, newlines: bool) -> str:
    css = f"t {piece.css}" if piece.css else "t"
    if piece.space and "  " in piece.text:
        css += " ws"
    title = f' title="{escape(piece.title)}"' if piece.title else ""
    text = escape(piece.text)
    if newlines and piece.breaks:  # within the piece, for a token may hold a line's end and the next one's indent
        text = text.replace("↵", "↵\n")
    return f'<span class="{css}"{title}>{text}</span>'


@lru_cache(maxsize=1 << 17)
def _silent(text: str, space: bool) -> str:
    """A piece that has no colour and nothing to tell."""
    return _piece(Piece(text, "", "", space, 0, 0), False)


def _merged(pieces: Iterable[Piece]) -> Markup:
    """The same without tooltips: silent words stand together."""
    out = []
    for words, some in groupby(pieces, lambda piece: not piece.css and not piece.space):
        if words:
            out.append(_silent("".join([piece.text for piece in some]), False))
        else:
            out += [_piece(piece, False) for piece in some]
    return Markup("".join(out))


def row_html(row: Row, newlines: bool = False) -> Markup:
    """A row cut out of a context."""
    before, after = _CUT if row.before else "", _CUT if row.after else ""
    return Markup(f'<span class="text" dir="ltr"{_ids(row)}>{before}{pieces_html(row.pieces, newlines)}{after}</span>')


def kwic_html(row: Row) -> Markup:
    """One line with the peak at a fixed place, so that rows under each other can be read down."""
    show = pieces_html if row.ids else _merged
    before, after = _CUT if row.before else "", _CUT if row.after else ""
    return Markup(
        f'<span class="kwic text" dir="ltr"{_ids(row)}><span class="kwic-before"><span>{before}'
        f'{show(row.pieces[: row.peak])}</span></span><span class="kwic-after">'
        f'{show(row.pieces[row.peak :])}{after}</span></span>')


def _ids(row: Row) -> str:
    if not row.ids:
        return ""
    at = "" if row.at is None else f' data-at="{row.at}"'
    return f' data-ids="{row.ids}"{at}'
