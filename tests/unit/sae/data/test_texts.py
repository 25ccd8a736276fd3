"""Text sources: each kind is recognised, read in order, and refused with a message that helps."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.data.documents import Document
from sae.data.texts import SEPARATOR, find_text, is_source_text, python_files, source_documents
from sae.errors import UserError


def read(text: str, column: str = "text", split: str = "train") -> list[tuple[str, str]]:
    return [(d.name, d.text) for d in find_text(text, column, split).documents()]


def refused(action: Callable[[], Any], field: str) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert caught.value.field == field
    return str(caught.value)


def test_stdlib_reads_this_interpreters_sources_without_tests() -> None:
    source = find_text("stdlib")
    documents = {d.name: d.text for d in source.documents()}
    root = Path(sysconfig.get_path("stdlib"))
    assert documents["json/decoder.py"] == (root / "json/decoder.py").read_text(encoding="utf-8")
    assert len(documents) == source.count()
    assert list(documents) == sorted(documents, key=lambda name: (root / name))
    left_out = {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    assert not [name for name in documents if left_out & set(name.split("/"))]
    assert all(is_source_text(text) for text in documents.values() if text)


def test_sources_that_are_short_long_wide_binary_or_repeated_come_empty(tmp_path: Path) -> None:
    good = "x = 1\n" * 50
    files = {
        "a.py": good, "b.py": good, "c.py": "x = 1\n", "d.py": "y = 2\n" * 60_000, "e.py": good + "z" * 401,
        "f.py": "w = 3\n" * 50, "test/g.py": "v = 4\n" * 50, "deep/tests/h.py": "u = 5\n" * 50}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "i.py").write_bytes(b"\xff" * 300)
    got = {d.name: d.text for d in source_documents(tmp_path, python_files(tmp_path))}
    assert got == {"a.py": good, "b.py": "", "c.py": "", "d.py": "", "e.py": "", "f.py": files["f.py"], "i.py": ""}


parts = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff")).map(
    lambda text: text.strip("\r\n")).filter(lambda text: SEPARATOR not in text), min_size=2, max_size=6)


@given(parts)
def test_a_file_is_split_at_separator_lines(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("split") / "all.txt"
    path.write_bytes(f"\n{SEPARATOR}\n".join(texts).encode())
    source = find_text(str(path))
    documents = list(source.documents())
    assert [d.text for d in documents] == texts
    assert [d.name for d in documents] == [f"all.txt#{i}" for i in range(len(texts))]
    assert source.count() == len(texts)


def test_a_file_without_separators_is_one_document_to_the_byte(tmp_path: Path) -> None:
    text = "héllo\r\n\n  wörld 🌍\n"
    (tmp_path / "one.txt").write_bytes(text.encode())
    assert read(str(tmp_path / "one.txt")) == [("one.txt", text)]


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"abc\xff\xfe")
    assert "UTF-8" in refused(lambda: read(str(tmp_path / "bad.txt")), "text")


def test_a_directory_is_read_recursively_and_binaries_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    for name, data in {"b.md": b"two", "sub/a.txt": "drei ß".encode(), ".hidden": b"no", ".git/x": b"no",
                       "image.png": b"\x89PNG\0\xff"}.items():
        (tmp_path / name).write_bytes(data)
    assert read(str(tmp_path)) == [("b.md", "two"), ("image.png", ""), ("sub/a.txt", "drei ß")]


def test_a_file_name_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"bad\xff.txt")).write_text("text")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    assert read(str(tmp_path)) == [("bad\N{REPLACEMENT CHARACTER}.txt", "text")]


def test_half_of_a_surrogate_pair_in_jsonl_becomes_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud83e b \\ud83e\\udd8a"}\n')
    assert read(str(tmp_path / "a.jsonl")) == [("a.jsonl#1", "a? b 🦊")]


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    assert "no files" in refused(lambda: find_text(str(tmp_path)), "text")


@given(st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]))), min_size=1, max_size=8))
def test_jsonl_and_parquet_give_the_column_row_by_row(
    tmp_path_factory: pytest.TempPathFactory, values: list[str | None]
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    (folder / "t.jsonl").write_text("".join(json.dumps({"id": 1, "code": v}) + "\n" for v in values), "utf-8")
    pyarrow.parquet.write_table(
        pyarrow.table({"code": pyarrow.array(values, pyarrow.string())}), folder / "t.parquet")
    for name in ("t.jsonl", "t.parquet"):
        source = find_text(str(folder / name), "code")
        assert [d.text for d in source.documents()] == [v or "" for v in values]
        assert source.count() == len(values)


def test_a_missing_column_is_named_and_the_others_are_listed(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"content": "x", "lang": "en"}\n')
    pyarrow.parquet.write_table(pyarrow.table({"content": ["x"], "lang": ["en"]}), tmp_path / "t.parquet")
    for name in ("t.jsonl", "t.parquet"):
        message = refused(lambda name=name: read(str(tmp_path / name), "body"), "text_column")
        assert "'body'" in message
        assert "'content', 'lang'" in message


@pytest.mark.parametrize(("line", "field", "says"), [
    ('{"text": ', "text", "line 2"), ("[1]", "text", "not a JSON object"), ('{"text": 3}', "text_column", "int")])
def test_a_bad_jsonl_line_is_named(tmp_path: Path, line: str, field: str, says: str) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    assert says in refused(lambda: read(str(tmp_path / "t.jsonl")), field)


def test_a_parquet_column_that_is_not_text_is_refused(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "t.parquet")
    assert "int" in refused(lambda: read(str(tmp_path / "t.parquet")), "text_column")


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    assert "Parquet" in refused(lambda: find_text(str(tmp_path / "t.parquet")), "text")


@pytest.mark.parametrize("name", ["/no/such/place", "./nothing", "gone.txt", "a/b/c", "two words"])
def test_what_is_not_there_is_refused_without_asking_the_network(name: str) -> None:
    assert name in refused(lambda: find_text(name), "text")


def hub(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]) -> None:
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))
    monkeypatch.setattr("sae.data.texts.hub_reachable", lambda: True)


def test_a_data_set_is_streamed_from_its_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(*args: Any, **options: Any) -> list[dict[str, str]]:
        asked.append((args, options))
        return [{"body": "one"}, {"body": "two"}]

    hub(monkeypatch, load)
    source = find_text("owner/set:small", "body", "validation")
    assert source.endless
    assert list(source.documents()) == [
        Document("owner/set:small/validation#0", "one"), Document("owner/set:small/validation#1", "two")]
    assert asked == [(("owner/set", "small"), {"split": "validation", "streaming": True})]
    assert "'body'" in refused(lambda: read("owner/set", "text"), "text_column")


@pytest.mark.parametrize(("error", "field"), [
    (ConnectionError("no route"), "text"), (ValueError("Bad split: dev"), "text_split")])
def test_a_data_set_that_cannot_be_had_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception, field: str
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise error

    hub(monkeypatch, load)
    message = refused(lambda: read("owner/set"), field)
    assert "owner/set" in message
    assert "\n" not in message


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    first = find_text(str(tmp_path)).fingerprint
    assert find_text(str(tmp_path)).fingerprint == first
    (tmp_path / "a.txt").write_text("other")
    assert find_text(str(tmp_path)).fingerprint != first
