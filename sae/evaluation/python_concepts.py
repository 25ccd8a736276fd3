"""Concepts of Python source, found by the `ast` and `tokenize` modules of the standard library.

They make a labelled data set of any corpus of Python files, without a label file.  Offsets are in UTF-8 bytes.
"""

from __future__ import annotations

import ast
import io
import keyword
import re
import tokenize
import warnings
from collections.abc import Iterator
from itertools import accumulate

Span = tuple[int, int, str]  # start, end (exclusive), concept

_LINE_END = re.compile(r"\r\n|\r|\n")
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# Nodes whose whole text is one span of a concept.
_NODES: tuple[tuple[str, tuple[type[ast.AST], ...]], ...] = (
    ("import", (ast.Import, ast.ImportFrom)), ("call", (ast.Call,)), ("f-string", (ast.JoinedStr,)),
    ("comparison", (ast.Compare,)), ("subscript", (ast.Subscript,)), ("raise", (ast.Raise,)),
    ("return statement", (ast.Return,)), ("assert", (ast.Assert,)), ("lambda", (ast.Lambda,)),
    ("comprehension", _COMPREHENSIONS), ("exception handler", (ast.ExceptHandler,)), ("list", (ast.List,)),
    ("dictionary", (ast.Dict,)), ("tuple", (ast.Tuple,)), ("boolean expression", (ast.BoolOp,)),
    ("arithmetic", (ast.BinOp,)), ("class", (ast.ClassDef,)), ("function", _FUNCTIONS), ("loop", _LOOPS),
    ("with statement", (ast.With, ast.AsyncWith)), ("async function", (ast.AsyncFunctionDef,)))


def python_spans(text: str) -> list[Span] | None:
    """Return the spans of all concepts in a Python file, or None if it is not valid Python.

    An indented suite inside another one of its kind is a span of its own.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in others' strings
            tree = ast.parse(text)
        lines = _LINE_END.split(text)
        starts = _line_starts(lines, text)
        return sorted({*_of_tokens(text, lines, starts), *_of_nodes(tree, text.encode(), starts)})
    except (SyntaxError, ValueError, RecursionError, tokenize.TokenError):
        return None


def _line_starts(lines: list[str], text: str) -> list[int]:
    """Return the byte at which each line begins."""
    ends = [len(end) for end in _LINE_END.findall(text)] + [0]
    sizes = [len(line.encode()) + end for line, end in zip(lines, ends, strict=True)]
    return [0, *accumulate(sizes)]


def _of_tokens(text: str, lines: list[str], starts: list[int]) -> Iterator[Span]:
    for token in tokenize.generate_tokens(io.StringIO(text, newline=None).readline):
        concept = _token_concept(token)
        if concept:  # none of these tokens crosses the end of a line
            row, column = token.start
            start = starts[row - 1] + len(lines[row - 1][:column].encode())
            yield start, start + len(token.string.encode()), concept


def _token_concept(token: tokenize.TokenInfo) -> str | None:
    if token.type == tokenize.COMMENT:
        return "comment"
    if token.type == tokenize.NUMBER:
        return "number"
    if token.type == tokenize.NAME and keyword.iskeyword(token.string):
        return "constant" if token.string in ("None", "True", "False") else "keyword"
    if token.type == tokenize.OP and token.string in ("(", ")", "[", "]", "{", "}"):
        return "bracket"
    return None


def _of_nodes(tree: ast.AST, data: bytes, lines: list[int]) -> Iterator[Span]:
    def place(node: ast.AST, concept: str) -> Span:
        return (lines[getattr(node, "lineno") - 1] + getattr(node, "col_offset"),  # noqa: B009  (not of every node)
                lines[getattr(node, "end_lineno") - 1] + getattr(node, "end_col_offset"), concept)  # noqa: B009

    docstrings = set()
    for node in ast.walk(tree):
        for concept, kinds in _NODES:
            if isinstance(node, kinds):
                yield place(node, concept)
        if isinstance(node, (ast.Module, ast.ClassDef, *_FUNCTIONS)) and ast.get_docstring(node, clean=False):
            docstring = node.body[0].value  # type: ignore[attr-defined]
            docstrings.add(docstring)
            yield place(docstring, "docstring")
        if isinstance(node, (ast.ClassDef, *_FUNCTIONS)):
            yield from _head(node, data, place(node, ""))
            for decorator in node.decorator_list:
                yield place(decorator, "decorator")
        if isinstance(node, ast.arg):
            yield place(node, "parameter")
            if node.annotation is not None:
                yield place(node.annotation, "annotation")
        if isinstance(node, ast.arguments):
            for default in (*node.defaults, *(d for d in node.kw_defaults if d is not None)):
                yield place(default, "default value")
        if isinstance(node, ast.Attribute):
            end = place(node, "")[1]
            yield end - len(node.attr.encode()), end, "attribute name"
        if isinstance(node, (ast.If, ast.While, ast.IfExp)):
            yield place(node.test, "condition")
        if isinstance(node, (ast.Assign, ast.For)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield place(target, "assigned name")
        if isinstance(node, ast.keyword) and node.arg is not None:
            start = place(node, "")[0]
            yield start, start + len(node.arg.encode()), "keyword argument"
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and node not in docstrings:
            yield place(node, "string")


def _head(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, data: bytes, whole: Span) -> Iterator[Span]:
    """Yield the name in the head of a definition."""
    name = node.name.encode()
    start = data.find(name, data.find(b"class" if isinstance(node, ast.ClassDef) else b"def", whole[0]))
    if start >= 0:
        yield start, start + len(name), "class name" if isinstance(node, ast.ClassDef) else "function name"
