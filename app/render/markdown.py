"""The program's own Markdown documents as HTML: headings with anchors, links between chapters, no raw HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

_parser = MarkdownIt("commonmark", {"html": False}).enable("table")


@dataclass(frozen=True)
class Section:
    """A heading with its anchor and level, and the plain text below it, for a search."""

    anchor: str
    level: int
    title: str
    text: str


@dataclass(frozen=True)
class Document:
    """A document: its first heading, its sections in order, its HTML, and the targets of its links.

    `commands` are the lines of its blocks of shell code; a line that ends with `\\` is joined with the next one.
    """

    title: str
    sections: list[Section]
    html: Markup
    links: list[str]
    commands: list[str]


def read(text: str, base: str) -> Document:
    """Read a document whose links to `x.md` become `base/x`."""
    tokens = _parser.parse(text)
    links = list(_rewrite_links(tokens, base))
    sections = _sections(tokens)
    html = Markup(_parser.renderer.render(tokens, _parser.options, {}))
    title = next((section.title for section in sections if section.level == 1), "")
    commands = [line for token in tokens if token.type == "fence" and token.info.strip() == "sh"
                for line in _commands(token.content)]
    return Document(title, sections, html, links, commands)


def anchor_of(title: str) -> str:
    """Return a heading's anchor, as code hosts make it."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip())


def _rewrite_links(tokens: Sequence[Token], base: str) -> Iterator[str]:
    for token in tokens:
        for child in token.children or ():
            target = child.attrs.get("href")
            if child.type == "link_open" and isinstance(target, str):
                yield target
                child.attrs["href"] = re.sub(r"^([\w-]+)(?:\.md|(\.ipynb))(?=#|$)", rf"{base}/\1\2", target)


def _sections(tokens: Sequence[Token]) -> list[Section]:
    """Return the sections, and give each heading its anchor."""
    found: list[tuple[str, int, str, list[str]]] = []
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            title = _plain(tokens[i + 1])
            token.attrs["id"] = anchor_of(title)
            found.append((anchor_of(title), int(token.tag[1:]), title, []))
        elif found and token.type in ("inline", "fence") and tokens[i - 1].type != "heading_open":
            found[-1][3].append(_plain(token))
    return [Section(anchor, level, title, " ".join(text)) for anchor, level, title, text in found]


def _plain(token: Token) -> str:
    if not token.children:
        return token.content
    return "".join(" " if child.type in ("softbreak", "hardbreak") else child.content for child in token.children)


def _commands(block: str) -> list[str]:
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]
