"""Rows of corpus text as HTML.  Pages hold thousands of tokens, for which templates are too slow.

A token that fires has its tooltip in `title`.  The browser (`static/js/app.js`) makes the tooltips of the others
from the row's `data-ids`, the ids of all its tokens (`+` joins the ids of one
piece), and `data-at`, the position of the first.  This takes a third of the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from html import escape

from markupsafe import Markup

from app.render.numbers import number
from app.render.token_text import Piece, Row, heat_class, token_title, visible, whole
from sae.store.records import Token, Vocabulary

_WIDE = '<span class="t ws">'
_CUT = '<span class="cut">…</span>'


def pieces_html(pieces: Iterable[Piece], newlines: bool = False, anchor: str = "") -> Markup:
    """Return the pieces in sequence; with `newlines`, lines break where the text breaks them.

    `anchor` is the id of the piece with the peak, if it has one.
    """
    cells = []
    for piece in pieces:
        cell = _piece(piece, newlines)
        at_peak = anchor and "peak" in piece.css.split()
        cells.append(cell.replace("<span ", f'<span id="{anchor}" ', 1) if at_peak else cell)
    return Markup("".join(cells))


def _piece(piece: Piece, newlines: bool = False) -> str:
    css = f"t {piece.css}" if piece.css else ""
    if piece.space and "  " in piece.text:
        css = f"{css or 't'} ws"
    text = escape(piece.text)
    if newlines and piece.breaks:  # the break may be inside the piece: a token may have a newline and an indent
        text = text.replace("↵", "↵\n")
    if not css and not piece.title:
        return f"<i>{text}</i>"
    title = f' title="{escape(piece.title)}"' if piece.title else ""
    return f'<span class="{css or "t"}"{title}>{text}</span>'


class Cells(dict[int, str]):
    """The HTML of a vocabulary's tokens without an activation, by id; "" for a token that is part of a character."""

    def __init__(self, info: Mapping[int, Token]) -> None:
        self.info = info
        self._names: dict[int, str] = {}

    def name(self, token: int) -> str:
        """Return what the tooltip of a token says, without its activation and position, as HTML."""
        found = self._names.get(token)
        if found is None:
            found = self._names[token] = escape(token_title(self.info[token], 0, None))
        return found

    def __missing__(self, token: int) -> str:
        piece = self.info[token].piece
        shown = whole(piece) if piece else None
        cell = self[token] = _piece(Piece(shown[0], "", "", shown[1], shown[2], 0)) if shown else ""
        return cell


def _cells(row: Row) -> tuple[list[str], int, str]:
    """Return the HTML of each piece, the index of the piece with the peak, and the row's `data-ids` attributes."""
    tokens, peak = row.tokens, row.context.peak - row.low
    kept = row.info.kept(Cells) if isinstance(row.info, Vocabulary) else Cells(row.info)
    cells = list(map(kept.__getitem__, tokens))
    if "" in cells:  # some characters are split over several tokens
        ends = [*(piece.start for piece in row.pieces[1:]), len(tokens)]
        ids = ["+".join(map(str, tokens[piece.start : end])) for piece, end in zip(row.pieces, ends, strict=True)]
        return [_piece(piece) for piece in row.pieces], row.peak, _ids(row, ids)
    for i, act in enumerate(row.context.acts[row.low : row.high]):
        if act > 0 or i == peak:
            place = "" if row.at is None else f" · position {row.at + i}"
            cells[i] = _coloured(cells[i], kept.name(tokens[i]), act, heat_class(act, row.top), i == peak, place)
    return cells, peak, _ids(row, map(str, tokens))


def _coloured(cell: str, name: str, act: float, heat: str, peak: bool, place: str) -> str:
    """Add the colour and the tooltip of an activation to a token's HTML."""
    css = f"{' ' if heat else ''}{heat}{' peak' if peak else ''}{' ws' if cell.startswith(_WIDE) else ''}"
    value = f"{act:.4f} · " if act > 0 else ""
    text = cell[cell.index(">") + 1 : cell.rindex("<")]
    return f'<span class="t{css}" title="{value}{name}{place}">{text}</span>'


def _ids(row: Row, ids: Iterable[str]) -> str:
    if not row.numbered:
        return ""
    at = "" if row.at is None else f' data-at="{row.at}"'
    return f' data-ids="{" ".join(ids)}"{at}'


def context_html(row: Row, here: str, inspect: str = "", aligned: bool = True, newlines: bool = False) -> Markup:
    """Return a context as a list item: its activation, its text and its document.

    `here` is the latent's address, or "" if the documents cannot be shown.  `inspect` is the address of the page with
    all latents of this context, or "".  `aligned` puts the peaks below each other.
    """
    context = row.context
    name, short = _document(context.document)
    place = context.doc_offset + (context.start or 0) + context.peak
    title = f"{name}, token {place}" if name else "the file does not name the document"
    often = row_link = ""
    if context.duplicates > 1:
        title += f"; {context.duplicates} of its strongest contexts have this text"
        often = f" ×{context.duplicates}"
    if name and here:
        source = f"{escape(here)}/source/{context.ctx}#at"
        row_link = f' data-href="{source}"'  # a click on the row opens the document, too
        short = f'<a class="plain-link" href="{source}">{short}</a>'
    link = (f'<a class="row-link" title="all latents of this text" aria-label="All latents of this text"'
            f' href="{escape(inspect)}&amp;context={context.band}.{context.rank}">⌕</a>') if inspect else ""
    text = kwic_html(row) if aligned else row_html(row, newlines)
    return Markup(f'<li class="ctx" data-row{row_link} tabindex="0"><span class="num">{number(context.act, 2)}</span>'
                  f'{text}<span class="source muted" title="{title}">{short}{often}</span>{link}</li>')


@lru_cache(maxsize=1 << 14)
def _document(name: str) -> tuple[str, str]:
    """Return a document's name as HTML, complete and without its folders."""
    return escape(visible(name)), escape(visible(name.rpartition("/")[2]))


def _joined(cells: Iterable[str], numbered: bool) -> str:
    """Join the cells; without tooltips (`numbered`), neighbouring plain cells become one element."""
    joined = "".join(cells)
    return joined if numbered else joined.replace("</i><i>", "")


def row_html(row: Row, newlines: bool = False) -> Markup:
    """Return a row of text that is cut from a context."""
    cells, _, ids = _cells(row)
    before, after = _CUT if row.before else "", _CUT if row.after else ""
    text = pieces_html(row.pieces, newlines) if newlines else "".join(cells)
    return Markup(f'<span class="text" dir="ltr"{ids}>{before}{text}{after}</span>')


def kwic_html(row: Row) -> Markup:
    """Return one line with the peak at a fixed position, so that rows below each other are aligned."""
    cells, peak, ids = _cells(row)
    before, after = _CUT if row.before else "", _CUT if row.after else ""
    return Markup(
        f'<span class="kwic text" dir="ltr"{ids}><span class="kwic-before"><span>{before}'
        f'{_joined(cells[:peak], row.numbered)}</span></span><span class="kwic-after">'
        f'{_joined(cells[peak:], row.numbered)}{after}</span></span>')
