"""Tests of the program's own Markdown documents as HTML."""

from __future__ import annotations

from app.render.markdown import anchor_of, read

TEXT = """# First things

See [the other](other.md#part) and [far](https://example.org/x.md).

## A *part*, one

Some `code` and text.

```sh
saescope train --k 3 \\
  --name two  # a remark
# only a remark
make run
```

<script>alert(1)</script>
"""


def test_headings_links_and_commands() -> None:
    found = read(TEXT, "/docs")
    assert found.title == "First things"
    assert [(s.anchor, s.level, s.title) for s in found.sections] == [
        ("first-things", 1, "First things"), ("a-part-one", 2, "A part, one")]
    assert 'href="/docs/other#part"' in found.html
    assert 'href="https://example.org/x.md"' in found.html
    assert '<h2 id="a-part-one">' in found.html
    assert found.links == ["other.md#part", "https://example.org/x.md"]
    assert found.commands == ["saescope train --k 3 --name two", "make run"]
    assert "Some code and text." in found.sections[1].text


def test_html_in_a_document_is_text() -> None:
    assert "<script" not in read(TEXT, "/docs").html
    assert anchor_of("θ, and `x`: 2") == "θ-and-x-2"
