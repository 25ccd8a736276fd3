"""Links and images of items: what is given out, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sae.lm.item_links import MAX_IMAGE_BYTES, Item, image_of, items_of

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "vectors"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "cat.png").write_bytes(PNG)
    (folder / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "secret.png").write_bytes(PNG)
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    np.save(folder / "a.npy", np.ones((2, 3), dtype=np.float32))
    np.save(folder / "b.npy", np.ones((4, 3), dtype=np.float32))
    (folder / "b.jsonl").write_text("\n".join(json.dumps(line) for line in (
        {"text": "a cat", "image": "pictures/cat.png", "url": "https://example.org/cat"},
        {"text": "code", "url": "javascript:alert(1)", "image": "../secret.png"},
        {"text": "é", "link": "http://example.org/é"}, "a string")))
    return folder


def test_items_with_links_or_images_are_found_by_their_tokens(folder: Path) -> None:
    found = items_of(folder, range(10))
    assert found == {3: Item("a cat", "https://example.org/cat", "pictures/cat.png"),
                     5: Item("é", "http://example.org/é")}


@pytest.mark.parametrize(
    "image", ["../secret.png", "out.png", "drawing.svg", "pictures", "none.png", "/etc/passwd", "\0"])
def test_no_other_files_are_given_out(folder: Path, image: str) -> None:
    assert image_of(folder, image) is None


@pytest.mark.parametrize(("head", "kind"), [
    (PNG, "image/png"), (b"\xff\xd8\xff\xe0", "image/jpeg"), (b"GIF89a", "image/gif"),
    (b"RIFF1234WEBPVP8 ", "image/webp"),
    (b"<html><script>", None), (b"RIFF1234WAVE", None), (b"", None)])
def test_the_type_is_that_of_the_content(folder: Path, head: bytes, kind: str | None) -> None:
    (folder / "x.png").write_bytes(head)
    found = image_of(folder, "x.png")
    assert (found and found[1]) == kind


def test_a_huge_file_is_not_given_out(folder: Path) -> None:
    with (folder / "huge.png").open("wb") as file:
        file.write(PNG)
        file.truncate(MAX_IMAGE_BYTES + 1)
    assert image_of(folder, "huge.png") is None


def test_a_folder_that_is_gone_or_damaged_has_no_items(folder: Path, tmp_path: Path) -> None:
    assert items_of(tmp_path / "gone", [1]) == {}
    (folder / "b.npy").write_bytes(b"no array")
    assert items_of(folder, [3]) == {}


def test_lines_that_are_added_are_seen(folder: Path) -> None:
    assert 6 not in items_of(folder, [6])
    lines = (folder / "b.jsonl").read_text().splitlines()
    (folder / "b.jsonl").write_text("\n".join([*lines[:3], json.dumps({"text": "new", "url": "https://example.org"})]))
    assert items_of(folder, [6]) == {6: Item("new", "https://example.org")}
