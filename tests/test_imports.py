"""The rules of who may import whom, read from the syntax trees and checked in a fresh interpreter.

- `sae` never imports `app`.
- Of `app`, only the model worker's server may reach torch, transformers or transformer_lens,
  whether by itself or through modules of ours.
- The modules of `sae` that pages and launchers lean on reach no torch.
- transformer_lens and transformers are imported by `sae/lm/bridge.py` and `sae/demo` alone.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = frozenset({"torch", "transformers", "transformer_lens"})
WORKER_SERVER = "app.worker.server"
TORCH_FREE = (
    "sae", "sae.cli.main", "sae.data.corpus", "sae.errors", "sae.cli.export", "sae.formats.dashboards.import_dashboard", "sae.formats.writers.kinds",
    "sae.store.schema", "sae.lm.model_info", "sae.runs.folder", "sae.specs.registry",
    "sae.store.build", "sae.data.texts", "sae.lm.tokens", "sae.workspace.paths")


@dataclass
class Module:
    """What a module imports: when it is itself imported, and at any time (in functions too)."""

    at_import: set[str] = field(default_factory=set)
    ever: set[str] = field(default_factory=set)


def imported_names(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    """Full dotted names; for `from a import b` both `a` and `a.b`, which may be a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    yield base
    yield from (f"{base}.{alias.name}" for alias in node.names)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def read_module(source: str, package: str) -> Module:
    module = Module()

    def walk(node: ast.AST, in_function: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = set(imported_names(node, package))
            module.ever |= names
            module.at_import |= set() if in_function else names
        if is_type_checking(node):
            assert isinstance(node, ast.If)
            children: Iterator[ast.AST] = iter(node.orelse)
        else:
            children = ast.iter_child_nodes(node)
        for child in children:
            walk(child, in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    walk(ast.parse(source), False)
    return module


def read_modules(root: Path) -> dict[str, Module]:
    """Every module of `sae` and `app` below `root`, by dotted name."""
    modules = {}
    for top in ("sae", "app"):
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            package = name if is_package else name.rpartition(".")[0]
            modules[name] = read_module(path.read_text(encoding="utf-8"), package)
    return modules


def parents(name: str) -> list[str]:
    """`a.b.c` and the packages whose import it brings: a, a.b, a.b.c."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def reached(modules: dict[str, Module], names: set[str]) -> set[str]:
    """Every module, ours or not, that is imported when `names` are."""
    found: set[str] = set()
    waiting = [part for name in names for part in parents(name)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [part for other in modules.get(name, Module()).at_import for part in parents(other)]
    return found


def broken_rules(modules: dict[str, Module]) -> list[str]:
    """One line for every rule that some module breaks."""
    broken = []
    for name, module in modules.items():
        tops = {other.split(".")[0] for other in module.ever}
        if name.split(".")[0] == "sae":
            if "app" in tops:
                broken.append(f"{name} imports app")
            if tops & (HEAVY - {"torch"}) and name != "sae.lm.bridge" and not name.startswith("sae.demo"):
                broken.append(f"{name} imports a model library; that is for sae.lm.bridge")
        elif name != WORKER_SERVER:
            for other in sorted(module.ever):
                if heavy := reached(modules, {other}) & HEAVY:
                    broken.append(f"{name} reaches {', '.join(sorted(heavy))} through {other}")
    for name in TORCH_FREE:
        if heavy := reached(modules, {name}) & HEAVY:
            broken.append(f"{name} reaches {', '.join(sorted(heavy))}")
    return broken


def test_the_project_keeps_its_import_rules() -> None:
    modules = read_modules(ROOT)
    assert set(TORCH_FREE) <= set(modules)
    assert broken_rules(modules) == []


@pytest.mark.parametrize(("path", "source", "says"), [
    ("sae/x.py", "def f():\n    import app.main", "sae.x imports app"),
    ("sae/x.py", "import transformers", "sae.x imports a model library"),
    ("sae/lm/bridge.py", "import torch, transformers", None),
    ("sae/x.py", "import torch", None),
    ("app/x.py", "import torch.nn", "app.x reaches torch"),
    ("app/x.py", "from sae import heavy", "app.x reaches torch through sae.heavy"),
    ("app/x.py", "def f():\n    from sae.heavy import g", "app.x reaches torch through sae.heavy"),
    ("app/x.py", "from . import y", "app.x reaches torch through app.y"),
    ("app/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", None),
    ("app/x.py", "import sae.lazy", None),
    ("app/worker/server.py", "import sae.heavy, torch", None),
    ("sae/store/build.py", "class A:\n    import torch", "sae.store.build reaches torch"),
    ("sae/index/__init__.py", "from sae import heavy", "sae.store.schema reaches torch"),
])
def test_the_rules_see_what_they_forbid(tmp_path: Path, path: str, source: str, says: str | None) -> None:
    files = {"sae/__init__.py": "", "app/__init__.py": "", "sae/heavy.py": "from torch import nn",
             "sae/lazy.py": "def f():\n    import torch", "app/y.py": "", "sae/index/__init__.py": "", path: source}
    if "from . import y" in source:
        files["app/y.py"] = "import sae.heavy"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    broken = [line for line in broken_rules(read_modules(tmp_path)) if not line.startswith("app.y ")]
    assert any(line.startswith(says) for line in broken) if says else broken == []


def test_importing_the_web_program_brings_no_torch() -> None:
    names = [name for name in read_modules(ROOT) if name.split(".")[0] == "app" and name != WORKER_SERVER]
    script = (f"import importlib, sys\nfor name in {names + list(TORCH_FREE)!r}: importlib.import_module(name)\n"
              f"print(sorted({set(HEAVY)!r} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"
