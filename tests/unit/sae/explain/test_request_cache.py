"""The file of requests and answers: what is stored comes back, also after a killed process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sae.explain.request_cache import RequestCache, key_of


def test_the_cache_ignores_lines_that_are_not_answers(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('[]\n{"key": 3}\nnot json\n' + json.dumps({"key": "k", "answer": {"text": "t"}}) + "\n")
    assert len(RequestCache(path)) == 0


def answer(text: str) -> dict[str, Any]:
    return {"text": text, "tokens_in": 3, "tokens_out": 2}


def test_answers_come_back_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "requests.jsonl"
    cache = RequestCache(path)
    assert (len(cache), cache.get("a")) == (0, None)
    cache.put("a", {"n": 1}, answer("é"))
    cache.put("b", {"n": 2}, answer("two"))
    for found in (cache, RequestCache(path)):
        assert [found.get(key) for key in "abc"] == [answer("é"), answer("two"), None]
    assert (RequestCache(path).tokens_in, RequestCache(path).tokens_out) == (6, 4)
    assert [json.loads(line)["request"] for line in path.read_text().splitlines()] == [{"n": 1}, {"n": 2}]


def test_a_line_that_a_killed_process_left_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    RequestCache(path).put("a", {}, answer("one"))
    with open(path, "ab") as file:
        file.write(b'{"key": "b", "ans')
    cache = RequestCache(path)
    cache.put("c", {}, answer("three"))
    for found in (cache, RequestCache(path)):
        assert [found.get(key) for key in "abc"] == [answer("one"), None, answer("three")]


def test_a_key_does_not_depend_on_the_order_of_names() -> None:
    assert key_of({"a": 1, "b": "é"}) == key_of({"b": "é", "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
