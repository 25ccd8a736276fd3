"""Tests of rows of text as HTML: with tooltips or, joined, without, they have the same text."""

from __future__ import annotations

import re
from html import unescape

from hypothesis import given
from hypothesis import strategies as st

from app.render.context_html import kwic_html, pieces_html, row_html
from app.render.token_text import Row, context_row
from sae.store.records import Context
from tests.unit.app.render.test_token_text import vocabulary

PIECES = (b"a", b" <b>", b"  ", b"\n", "\u202e".encode(), "🦊".encode()[:2], "🦊".encode()[2:], b"", b"\x00&")
INFO = vocabulary(*PIECES)


@st.composite
def rows(draw: st.DrawFn, tokens: range) -> Row:
    ids = draw(st.lists(st.sampled_from(tokens), min_size=1, max_size=60))
    acts = draw(st.lists(st.sampled_from([0.0, 0.0, 0.5, 3.0]), min_size=len(ids), max_size=len(ids)))
    context = Context(latent=1, band=0, rank=0, act=3.0, ctx=5, document="x.py", doc_offset=0,
                      start=draw(st.sampled_from([0, 7, None])), peak=draw(st.integers(0, len(ids) - 1)), tokens=ids,
                      acts=acts, duplicates=1)
    return context_row(context, INFO, 3.0, draw(st.sampled_from(["snippet", "short", "full"])))


def words(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


@given(rows(range(5)) | rows(range(len(PIECES))))
def test_a_row_is_its_pieces(row: Row) -> None:
    whole = row_html(row)
    assert str(pieces_html(row.pieces)) in whole
    assert row.before == (whole.count('"cut"') - row.after > 0)
    line = kwic_html(row)
    assert words(line) == words(whole)
    left, _, right = line.partition('<span class="kwic-after">')
    assert words(left).removeprefix("…") == words(pieces_html(row.pieces[: row.peak]))
    assert "peak" in right
    assert len(row.pieces) == len(pieces_html(row.pieces).split("</")) - 1
    coloured = re.compile(r'<span class="t (?:a|peak)[^>]*>[^<]*</span>')
    assert coloured.findall(line) == coloured.findall(pieces_html(row.pieces))
    assert row.numbered == ('data-ids' in line)
    if row.numbered:
        ids = re.findall(r'data-ids="([^"]*)"', line)[0]
        shown = [int(i) for i in re.split(r"[ +]", ids)]
        low = 0 if row.at is None else row.at - (row.context.start or 0)
        assert row.at is None or shown == row.context.tokens[low : low + len(shown)]
        assert len(ids.split(" ")) == len(row.pieces) == len(re.findall(r'<i>|class="t[ "]', line))
