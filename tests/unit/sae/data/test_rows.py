"""Files and folders of rows are read as rows, or refused in one line; never as syntax."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from sae.data.documents import Document
from sae.data.texts import find_text
from sae.errors import UserError

TEXTS = ["one", "two\nlines, \"quoted\" ü", "three\ttabs"]


def read(path: Path, column: str = "text", split: str = "train") -> list[Document]:
    return list(find_text(str(path), column, split).documents())


def refused(action: Callable[[], Any], field: str) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert caught.value.field == field
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lines(values: list[Any], column: str = "text") -> str:
    return "".join(json.dumps({"id": 1, column: value}) + "\n" for value in values)


def write(path: Path, values: list[Any] = TEXTS) -> Path:
    """Write rows in the format that the file's name states."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"text": values}), path)
        return path
    if name.endswith(".arrow"):
        table = pyarrow.table({"text": values})
        with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as out:
            out.write_table(table)
        return path
    if name.endswith((".csv", ".tsv")):
        plain = path.with_name("plain")
        with open(plain, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writerows([["id", "text"], *([1, value] for value in values)])
        data = plain.read_bytes()
        plain.unlink()
    elif name.endswith(".json"):
        data = json.dumps([{"id": 1, "text": value} for value in values], indent=1).encode()
    else:
        data = lines(values).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data[:20]) + gzip.compress(data[20:])  # several members are one file
    if path.suffix == ".zst":
        data = b"".join(pyarrow.compress(part, "zstd", asbytes=True) for part in (data[:20], data[20:]))
    path.write_bytes(data)
    return path


NAMES = ["a.jsonl", "a.ndjson", "a.json", "a.csv", "a.tsv", "a.parquet", "a.arrow", "a.jsonl.gz", "a.jsonl.zst",
         "a.csv.gz", "a.json.zst", "A.JSONL"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_rows_gives_a_document_for_each_row(tmp_path: Path, name: str) -> None:
    source = find_text(str(write(tmp_path / name)))
    assert [document.text for document in source.documents()] == TEXTS
    assert source.count() in (0, len(TEXTS))
    message = refused(lambda: read(tmp_path / name, "body"), "text_column")
    assert "no column 'body'; there are: " in message
    assert "'text'" in message


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_rows_is_read_file_by_file(tmp_path: Path, name: str) -> None:
    write(tmp_path / "data" / f"x-{name}")
    write(tmp_path / "data" / f"y-{name}", ["last"])
    (tmp_path / "README.md").write_text("about it")
    documents = read(tmp_path)
    assert [document.text for document in documents] == [*TEXTS, "last"]
    assert documents[-1].name.startswith(f"data/y-{name}#")


def test_json_may_be_a_list_in_an_object_or_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "data": [{"text": "x"}, {"text": "y"}]}))
    (tmp_path / "b.json").write_text(lines(["p", "q"]))
    (tmp_path / "c.json").write_text(lines(["only"]))
    assert [d.text for d in read(tmp_path)] == ["x", "y", "p", "q", "only"]
    (tmp_path / "d.json").write_text('{"name": "saescope"}')
    assert "d.json is not a list of JSON objects" in refused(lambda: read(tmp_path / "d.json"), "text")


def test_a_folder_of_text_and_rows_is_refused_and_one_with_configurations_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("prose")
    (tmp_path / "package.json").write_text('{"name": "x"}')
    assert [d.text for d in read(tmp_path)] == ["prose"]
    write(tmp_path / "rows.csv")
    message = refused(lambda: find_text(str(tmp_path)), "text")
    assert "rows.csv" in message
    assert "a.txt" in message


def test_the_files_of_other_splits_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00001.parquet", ["t"])
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", ["v"])
    assert [d.text for d in read(tmp_path)] == ["t"]
    assert [d.text for d in read(tmp_path, split="validation")] == ["v"]
    assert "train, validation" in refused(lambda: read(tmp_path, split="test"), "text_split")


def test_a_data_set_saved_by_datasets_is_read_with_its_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"text": TEXTS})
    one.save_to_disk(tmp_path / "one")
    write(tmp_path / "one" / "cache-123.arrow", ["made by map"])
    assert [d.text for d in read(tmp_path / "one")] == TEXTS
    datasets.DatasetDict({"train": one, "test": one.select([0])}).save_to_disk(tmp_path / "both")
    assert [d.text for d in read(tmp_path / "both", split="test")] == ["one"]
    assert "'dev'; there are: test, train" in refused(lambda: read(tmp_path / "both", split="dev"), "text_split")


@pytest.mark.parametrize(("name", "data", "field", "says"), [
    ("a.csv", b"id,text\n1,x,y\n", "text", "line 2"),
    ("a.jsonl.gz", b"not gzip", "text", "a.jsonl.gz could not be read"),
    ("a.jsonl.zst", b"not zstd", "text", "a.jsonl.zst could not be read"),
    ("a.arrow", b"ARROW1 not really", "text", "not an Arrow file"),
    ("a.json", b"[1, 2]", "text", "not a list of JSON objects"),
    ("a.json", b"{", "text", "not JSON"),
    ("a.jsonl", b'{"text": [1, "x"]}\n', "text_column", "a list of int and str"),
    ("a.jsonl", b'{"text": [{"who": "me"}]}\n', "text_column", "without a role"),
    ("a.txt.gz", b"not gzip", "text", "a.txt.gz could not be read"),
])
def test_a_damaged_or_foreign_file_is_refused_in_one_line(
    tmp_path: Path, name: str, data: bytes, field: str, says: str
) -> None:
    (tmp_path / name).write_bytes(data)
    assert says in refused(lambda: read(tmp_path / name), field)


def test_a_compressed_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("héllo\r\n".encode()))
    assert [d.text for d in read(tmp_path / "a.txt.gz")] == ["héllo\r\n"]


def test_chats_and_token_ids_are_told_from_text(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}]
    shared = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]
    (tmp_path / "a.jsonl").write_text(lines([chat, shared, [5, 6], "plain", None, []]))
    documents = read(tmp_path / "a.jsonl")
    plain = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    assert [d.messages for d in documents[:2]] == [plain, plain]
    assert documents[2].ids == [5, 6]
    assert [(d.text, d.messages) for d in documents[3:5]] == [("plain", None), ("", None)]
    pyarrow.parquet.write_table(pyarrow.table({"messages": [plain], "input_ids": [[1, 2]]}), tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet", "messages")[0].messages == plain
    assert read(tmp_path / "b.parquet", "input_ids")[0].ids == [1, 2]
