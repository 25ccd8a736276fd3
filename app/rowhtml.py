"""Rows of corpus text as HTML.  Pages hold thousands of tokens, so this is not left to a template.

A token that fires has its tooltip in `title`.  The others' is put together in the browser
(`static/js/app.js`) from the row's `data-ids`, the ids of all its tokens (`+` joins those of one
piece), and `data-at`, the position of the first; which takes a third of the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

from app.tokens_view import Piece, Row

_CUT = '<span class="cut">…</span>'


def pieces_html(pieces: Iterable[Piece], newlines: bool = False) -> Markup:
    """The pieces, one after the other; with `newlines` a line is broken where the text breaks it."""
    out = []
    for piece in pieces:
        css = f"t {piece.css}" if piece.css else "t"
        if piece.space and "  " in piece.text:
            css += " ws"
        title = f' title="{escape(piece.title)}"' if piece.title else ""
        text = escape(piece.text)
        if newlines and piece.breaks:  # within the piece, for a token may hold a line's end and the next one's indent
            text = text.replace("↵", "↵\n")
        out.append(f'<span class="{css}"{title}>{text}</span>')
    return Markup("".join(out))


def row_html(row: Row, newlines: bool = False) -> Markup:
    """A row cut out of a context."""
    before, after = _CUT if row.before else "", _CUT if row.after else ""
    return Markup(f'<span class="text" dir="ltr"{_ids(row)}>{before}{pieces_html(row.pieces, newlines)}{after}</span>')


def kwic_html(row: Row) -> Markup:
    """One line with the peak at a fixed place, so that rows under each other can be read down."""
    before, after = _CUT if row.before else "", _CUT if row.after else ""
    return Markup(
        f'<span class="kwic text" dir="ltr"{_ids(row)}><span class="kwic-before"><span>{before}'
        f'{pieces_html(row.pieces[: row.peak])}</span></span><span class="kwic-after">'
        f'{pieces_html(row.pieces[row.peak :])}{after}</span></span>')


def _ids(row: Row) -> str:
    if not row.ids:
        return ""
    at = "" if row.at is None else f' data-at="{row.at}"'
    return f' data-ids="{row.ids}"{at}'
