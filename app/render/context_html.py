"""Rows of corpus text as HTML.  Pages hold thousands of tokens, so this is not left to a template.

A token that fires has its tooltip in `title`.  The others' is put together in the browser
(`static/js/app.js`) from the row's `data-ids`, the ids of all its tokens (`+` joins those of one
piece), and `data-at`, the position of the first; which takes a third of the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from html import escape
from itertools import groupby

from markupsafe import Markup

from app.render.numbers import number
from app.render.token_text import Piece, Row, heat_class, token_title, visible, whole
from sae.store.records import Token, Vocabulary

_WIDE = '<span class="t ws">'
_CUT = '<span class="cut">…</span>'


def pieces_html(pieces: Iterable[Piece], newlines: bool = False) -> Markup:
    """The pieces, one after the other; with `newlines` a line is broken where the text breaks it."""
    return Markup("".join([_piece(piece, newlines) for piece in pieces]))


def _piece(piece: Piece, newlines: bool = False) -> str:
    css = f"t {piece.css}" if piece.css else ""
    if piece.space and "  " in piece.text:
        css = f"{css or 't'} ws"
    text = escape(piece.text)
    if newlines and piece.breaks:  # within the piece, for a token may hold a line's end and the next one's indent
        text = text.replace("↵", "↵\n")
    if not css and not piece.title:
        return f"<i>{text}</i>"
    title = f' title="{escape(piece.title)}"' if piece.title else ""
    return f'<span class="{css or "t"}"{title}>{text}</span>'


class Cells(dict[int, str]):
    """What a silent token of a vocabulary looks like, by its id; "" for one that its neighbours help to show."""

    def __init__(self, info: Mapping[int, Token]) -> None:
        self.info = info

    def __missing__(self, token: int) -> str:
        piece = self.info[token].piece
        said = whole(piece) if piece else None
        cell = self[token] = _piece(Piece(said[0], "", "", said[1], said[2], 0)) if said else ""
        return cell


def _cells(row: Row) -> tuple[list[str], int, str]:
    """The HTML of each piece, the index of the one with the peak, and what the row's element says of the ids."""
    tokens, peak = row.tokens, row.context.peak - row.low
    kept = row.info.kept(Cells) if isinstance(row.info, Vocabulary) else Cells(row.info)
    cells = [kept[token] for token in tokens]
    if "" in cells:  # characters that several tokens make
        ends = [*(piece.start for piece in row.pieces[1:]), len(tokens)]
        ids = ["+".join(map(str, tokens[piece.start : end])) for piece, end in zip(row.pieces, ends, strict=True)]
        return [_piece(piece) for piece in row.pieces], row.peak, _ids(row, ids)
    for i, act in enumerate(row.context.acts[row.low : row.high]):
        if act > 0 or i == peak:
            cells[i] = _coloured(cells[i], row, i, act, i == peak)
    return cells, peak, _ids(row, map(str, tokens))


def _coloured(cell: str, row: Row, i: int, act: float, peak: bool) -> str:
    """A silent token's HTML with the colour and the tooltip of an activation."""
    css = f"t {heat_class(act, row.top)}{' peak' if peak else ''}{' ws' if cell.startswith(_WIDE) else ''}"
    position = None if row.at is None else row.at + i
    title = escape(token_title(row.info[row.context.tokens[row.low + i]], act, position))
    text = cell[cell.index(">") + 1 : cell.rindex("<")]
    return f'<span class="{" ".join(css.split())}" title="{title}">{text}</span>'


def _ids(row: Row, ids: Iterable[str]) -> str:
    if not row.numbered:
        return ""
    at = "" if row.at is None else f' data-at="{row.at}"'
    return f' data-ids="{" ".join(ids)}"{at}'


def context_html(row: Row, here: str, inspect: str = "", aligned: bool = True, newlines: bool = False) -> Markup:
    """A context as an item of a list: its activation, its text, where it stands.

    `here`: the latent's address, or "" where the documents cannot be shown; `inspect`: that of the page with all
    latents of this context, "" for none.  `aligned` puts the peaks under each other.
    """
    context = row.context
    name, short = _document(context.document)
    place = context.doc_offset + (context.start or 0) + context.peak
    title = f"{name}, token {place}" if name else "the file does not name the document"
    often = ""
    if context.duplicates > 1:
        title += f"; {context.duplicates} of its strongest contexts have this text"
        often = f" ×{context.duplicates}"
    if name and here:
        short = f'<a class="plain-link" href="{escape(here)}/source/{context.ctx}">{short}</a>'
    link = (f'<a class="row-link" title="all latents of this text" aria-label="All latents of this text"'
            f' href="{escape(inspect)}&amp;context={context.band}.{context.rank}">⌕</a>') if inspect else ""
    text = kwic_html(row) if aligned else row_html(row, newlines)
    return Markup(f'<li class="ctx" data-row tabindex="0"><span class="num">{number(context.act, 2)}</span>{text}'
                  f'<span class="source muted" title="{title}">{short}{often}</span>{link}</li>')


@lru_cache(maxsize=1 << 14)
def _document(name: str) -> tuple[str, str]:
    """A document's name as it is shown, whole and without its folders."""
    return escape(visible(name)), escape(visible(name.rpartition("/")[2]))


def _joined(cells: Iterable[str], numbered: bool) -> str:
    """The cells one after the other; words that no tooltip tells apart stand together."""
    if numbered:
        return "".join(cells)
    runs = groupby(cells, lambda cell: cell.startswith("<i>"))
    return "".join([
        f"<i>{''.join([cell[3:-4] for cell in run])}</i>" if words else "".join(run) for words, run in runs])


def row_html(row: Row, newlines: bool = False) -> Markup:
    """A row cut out of a context."""
    cells, _, ids = _cells(row)
    before, after = _CUT if row.before else "", _CUT if row.after else ""
    text = pieces_html(row.pieces, newlines) if newlines else "".join(cells)
    return Markup(f'<span class="text" dir="ltr"{ids}>{before}{text}{after}</span>')


def kwic_html(row: Row) -> Markup:
    """One line with the peak at a fixed place, so that rows under each other can be read down."""
    cells, peak, ids = _cells(row)
    before, after = _CUT if row.before else "", _CUT if row.after else ""
    return Markup(
        f'<span class="kwic text" dir="ltr"{ids}><span class="kwic-before"><span>{before}'
        f'{_joined(cells[:peak], row.numbered)}</span></span><span class="kwic-after">'
        f'{_joined(cells[peak:], row.numbered)}{after}</span></span>')
