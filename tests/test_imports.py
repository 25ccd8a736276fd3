"""Tests of the import rules, read from the syntax trees and checked in a fresh interpreter.

- Each package imports only the packages that `PLAN` allows.  `PLAN` lists the packages from the ground up, so an
  import of a later package, and with it a cycle, fails here, even inside a function.
- The modules of a package do not import each other in a cycle.
- In `app`, only the model worker may reach torch, transformers or transformer_lens.
- The modules of `sae` that pages and launchers use do not reach torch.
- Only `sae.lm` and `sae.demo` import transformer_lens and transformers.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests import ROOT

HEAVY = frozenset({"torch", "transformers", "transformer_lens"})
# Modules, and packages with what is in them, that import transformer_lens or transformers.
MODEL_LIBRARIES = ("sae.lm.libraries", "sae.lm.loading", "sae.lm.sentencepiece_file",
                   "sae.lm.conformance.tiny_models", "sae.lm.library_config", "sae.demo")
WORKER = frozenset({"app.worker.server", "app.worker.engine"})
TORCH_FREE = (
    "sae", "sae.autoencoder.config", "sae.cli.export", "sae.cli.main", "sae.client", "sae.data.corpus",
    "sae.data.texts", "sae.errors", "sae.evaluation.registry",
    "sae.evaluation.results", "sae.explain.checks", "sae.explain.estimate", "sae.explain.results",
    "sae.formats.dashboards.import_dashboard", "sae.formats.writers.kinds", "sae.kernels.malloc", "sae.lm.model_info",
    "sae.lm.tokens", "sae.runs.folder", "sae.specs.registry", "sae.store.build", "sae.store.schema",
    "sae.training.memory", "sae.workspace.paths")

# From the ground up: each package, and what it may import besides itself.  A module outside them is its own entry.
PLAN: dict[str, str] = {
    "sae": "",
    "sae.errors": "",
    "sae.faults": "sae.errors",
    "sae.workspace": "sae.errors",
    "sae.kernels": "",
    "sae.distributed": "sae.errors sae.workspace sae.kernels",
    "sae.lm": "sae.errors sae.workspace sae.kernels",
    "sae.store": "sae.errors sae.workspace",
    "sae.data": "sae.errors sae.workspace sae.distributed sae.lm",
    "sae.specs": "sae.errors sae.faults sae.workspace sae.lm sae.store sae.data",
    "sae.autoencoder.architectures": "sae.kernels sae.distributed sae.specs",
    "sae.autoencoder": "sae.errors sae.faults sae.workspace sae.kernels sae.autoencoder.architectures",
    "sae.training":
        "sae.errors sae.kernels sae.distributed sae.data sae.specs sae.autoencoder sae.autoencoder.architectures",
    "sae.index": "sae sae.errors sae.workspace sae.kernels sae.lm sae.store sae.data sae.specs sae.autoencoder",
    "sae.steering": "sae.errors sae.faults sae.kernels sae.lm sae.store sae.autoencoder",
    "sae.formats": "sae.errors sae.workspace sae.lm sae.autoencoder.architectures",
    "sae.formats.readers": "sae sae.errors sae.lm sae.autoencoder sae.autoencoder.architectures sae.formats",
    "sae.formats.writers": "sae sae.errors sae.workspace sae.store sae.formats",
    "sae.formats.dashboards": "sae sae.errors sae.workspace sae.store sae.formats sae.formats.writers",
    "sae.explain":
        "sae.errors sae.workspace sae.lm sae.store sae.specs sae.autoencoder sae.steering sae.formats",
    "sae.evaluation":
        "sae.errors sae.workspace sae.kernels sae.lm sae.store sae.data sae.specs sae.autoencoder "
        "sae.autoencoder.architectures sae.training sae.index sae.explain",
    "sae.evaluation.synthetic":
        "sae.errors sae.kernels sae.data sae.specs sae.autoencoder sae.autoencoder.architectures sae.training "
        "sae.evaluation",
    "sae.reproduce":
        "sae sae.errors sae.workspace sae.lm sae.data sae.specs sae.autoencoder sae.autoencoder.architectures "
        "sae.training sae.evaluation",
    "sae.runs":
        "sae sae.errors sae.workspace sae.distributed sae.lm sae.store sae.data sae.specs sae.autoencoder "
        "sae.autoencoder.architectures sae.training sae.index sae.explain sae.formats sae.formats.readers "
        "sae.formats.dashboards sae.evaluation",
    "sae.cli":
        "sae.errors sae.workspace sae.lm sae.store sae.specs sae.autoencoder sae.steering sae.explain "
        "sae.formats.writers sae.evaluation sae.evaluation.synthetic sae.reproduce sae.runs",
    "sae.demo": "sae.errors sae.workspace sae.lm sae.data",
    "sae.client": "sae",
    "sae.__main__": "sae.cli",
    "app": "",
    "app.resources": "",
    "app.settings": "sae.errors sae.faults sae.workspace",
    "app.db": "app.resources app.settings sae.errors",
    "app.render": "sae.lm sae.store",
    "app.web": "app.resources app.settings app.render sae sae.errors sae.faults sae.workspace",
    "app.access": "app.settings app.db app.web sae.errors",
    "app.servers": "app.db app.access sae.workspace",
    "app.library":
        "app.settings app.db app.render app.web sae sae.errors sae.workspace sae.store sae.data sae.autoencoder "
        "sae.explain sae.formats sae.formats.writers sae.evaluation",
    "app.jobs.launchers": "sae.workspace sae.runs",
    "app.jobs":
        "app.settings app.db app.servers app.library app.jobs.launchers sae.errors sae.workspace sae.specs sae.runs",
    "app.worker":
        "app.settings app.db app.web app.servers sae sae.errors sae.workspace sae.lm sae.autoencoder sae.steering",
    "app.pages":
        "app.settings app.db app.render app.web app.access app.library app.jobs app.worker sae sae.errors "
        "sae.workspace sae.store",
    "app.pages.find":
        "app.db app.render app.web app.library app.worker app.pages sae.errors sae.lm sae.steering sae.store",
    "app.pages.system": "app.resources app.settings app.db app.render app.web app.access app.jobs app.pages sae.errors",
    "app.pages.runs":
        "app.settings app.db app.render app.web app.access app.library app.jobs app.pages sae.errors sae.faults "
        "sae.workspace sae.lm sae.data sae.specs sae.explain sae.training sae.formats sae.evaluation sae.runs",
    "app.pages.explore":
        "app.db app.render app.web app.access app.library app.jobs app.pages app.pages.find app.pages.runs sae.errors "
        "sae.workspace sae.lm sae.store sae.specs sae.explain sae.formats sae.formats.writers sae.evaluation sae.runs",
    "app.pages.inspect":
        "app.db app.render app.web app.library app.worker app.pages app.pages.find app.pages.explore sae.errors "
        "sae.workspace "
        "sae.lm sae.store sae.steering",
    "app.pages.steer":
        "app.db app.render app.web app.library app.worker app.pages app.pages.find sae.errors sae.faults sae.workspace "
        "sae.lm "
        "sae.store sae.steering",
    "app.pages.lists":
        "app.db app.render app.web app.library app.worker app.pages app.pages.find app.pages.explore app.pages.inspect "
        "sae.errors "
        "sae.steering sae.store",
    "app.pages.api":
        "app.db app.access app.library app.jobs app.web app.worker app.pages app.pages.find app.pages.runs "
        "app.pages.explore app.pages.inspect app.pages.lists app.pages.steer sae.errors sae.steering sae.explain",
    "app.page_workers": "app.settings app.db app.web app.access app.library app.pages app.pages.explore",
    "app.main":
        "app.resources app.settings app.db app.web app.access app.servers app.library app.jobs app.jobs.launchers "
        "app.worker app.pages app.pages.system app.pages.runs app.pages.explore app.pages.inspect app.pages.lists "
        "app.pages.steer app.pages.api app.page_workers sae sae.specs sae.workspace",
    "app.cli_care": "app.settings app.db app.library app.jobs sae.errors sae.runs",
    "app.cli":
        "app.cli_care app.settings app.db app.web app.access app.jobs app.main sae.errors sae.workspace sae.cli "
        "sae.client sae.kernels",
}


@dataclass
class Module:
    """The names that a module imports: when it is itself imported, and at any time (in functions too)."""

    at_import: set[str] = field(default_factory=set)
    ever: set[str] = field(default_factory=set)


def imported_names(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    """Yield full dotted names; for `from a import b` both `a` and `a.b`, which may be a module."""
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


@cache
def read_modules(root: Path) -> dict[str, Module]:
    """Read every module of `sae` and `app` below `root`, by dotted name."""
    modules = {}
    for top in ("sae", "app"):
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            package = name if is_package else name.rpartition(".")[0]
            modules[name] = read_module(path.read_text(encoding="utf-8"), package)
    return modules


def package_of(name: str) -> str:
    """Return the entry of `PLAN` that a module belongs to."""
    return next((part for part in reversed(parents(name)) if part in PLAN), name)


def arrows(modules: dict[str, Module]) -> dict[str, set[str]]:
    """Return, for every module of ours, the modules of ours that it imports anywhere."""
    return {name: {other for other in module.ever if other in modules and other != name}
            - {part for other in module.ever for part in parents(other)[:-1] if other in modules}
            for name, module in modules.items()}


def unplanned(modules: dict[str, Module]) -> list[str]:
    """Return one line for every import that `PLAN` does not allow, and one for a cycle of modules."""
    found = []
    for name, others in arrows(modules).items():
        package = package_of(name)
        allowed = {package, *PLAN.get(package, "").split()}
        found += [f"{name} imports {other}, which {package} may not" for other in sorted(others)
                  if package_of(other) not in allowed]
    try:
        tuple(TopologicalSorter(arrows(modules)).static_order())
    except CycleError as error:
        found.append("a cycle: " + " -> ".join(error.args[1]))
    return found


def parents(name: str) -> list[str]:
    """Return the modules that an import of `a.b.c` imports: a, a.b, a.b.c."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def reached(modules: dict[str, Module], names: set[str]) -> set[str]:
    """Return every module, ours or not, that is imported when `names` are."""
    found: set[str] = set()
    waiting = [part for name in names for part in parents(name)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [part for other in modules.get(name, Module()).at_import for part in parents(other)]
    return found


def broken_rules(modules: dict[str, Module]) -> list[str]:
    """Return one line for every rule that a module breaks."""
    broken, heavy_of = [], dict[str, set[str]]()
    for name, module in modules.items():
        tops = {other.split(".")[0] for other in module.ever}
        if name.split(".")[0] == "sae":
            if tops & (HEAVY - {"torch"}) and not name.startswith(MODEL_LIBRARIES):
                broken.append(f"{name} imports a model library; only sae.lm.libraries may")
        elif name not in WORKER:
            for other in sorted(module.ever):
                if other not in heavy_of:
                    heavy_of[other] = reached(modules, {other}) & HEAVY
                if heavy := heavy_of[other]:
                    broken.append(f"{name} reaches {', '.join(sorted(heavy))} through {other}")
    for name in TORCH_FREE:
        if heavy := reached(modules, {name}) & HEAVY:
            broken.append(f"{name} reaches {', '.join(sorted(heavy))}")
    return broken


def test_the_project_keeps_its_import_rules() -> None:
    modules = read_modules(ROOT)
    assert set(TORCH_FREE) <= set(modules)
    assert broken_rules(modules) == []
    assert unplanned(modules) == []


def test_the_plan_lists_every_package_from_the_ground_up() -> None:
    modules = read_modules(ROOT)
    assert {package_of(name) for name in modules} == set(PLAN)
    order = list(PLAN)
    for package, allowed in PLAN.items():
        above = [other for other in allowed.split() if order.index(other) > order.index(package)]
        assert not above, f"{package} is below {above}"


def test_the_plan_detects_forbidden_imports() -> None:
    def says(**sources: str) -> list[str]:
        return unplanned({name.replace("__", "."): read_module(source, name.replace("__", ".").rpartition(".")[0])
                          for name, source in sources.items()})

    base = {"sae": "", "sae__store": "", "sae__lm": "", "app": "", "app__db": ""}
    assert says(**base, sae__lm__x="", sae__store__y="def f():\n    from sae.lm import x") == [
        "sae.store.y imports sae.lm.x, which sae.store may not"]
    assert says(**base, sae__store__y="import app.db") == ["sae.store.y imports app.db, which sae.store may not"]
    assert says(**base, sae__lm__x="from sae.lm.y import f", sae__lm__y="def g():\n    import sae.lm.x")[0].startswith(
        "a cycle: ")
    assert says(**base, sae__lm__x="from sae.lm import y", sae__lm__y="import torch") == []


@pytest.mark.parametrize(("path", "source", "says"), [
    ("sae/x.py", "import transformers", "sae.x imports a model library"),
    ("sae/lm/libraries.py", "import torch, transformers", None),
    ("sae/x.py", "import torch", None),
    ("app/x.py", "import torch.nn", "app.x reaches torch"),
    ("app/x.py", "from sae import heavy", "app.x reaches torch through sae.heavy"),
    ("app/x.py", "def f():\n    from sae.heavy import g", "app.x reaches torch through sae.heavy"),
    ("app/x.py", "from . import y", "app.x reaches torch through app.y"),
    ("app/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", None),
    ("app/x.py", "import sae.lazy", None),
    ("app/worker/server.py", "import sae.heavy, torch", None),
    ("sae/store/build.py", "class A:\n    import torch", "sae.store.build reaches torch"),
    ("sae/store/__init__.py", "from sae import heavy", "sae.store.schema reaches torch"),
])
def test_the_rules_detect_forbidden_imports(tmp_path: Path, path: str, source: str, says: str | None) -> None:
    files = {"sae/__init__.py": "", "app/__init__.py": "", "sae/heavy.py": "from torch import nn",
             "sae/lazy.py": "def f():\n    import torch", "app/y.py": "", "sae/store/__init__.py": "",
             "sae/lm/__init__.py": "", path: source}
    if "from . import y" in source:
        files["app/y.py"] = "import sae.heavy"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    broken = [line for line in broken_rules(read_modules(tmp_path)) if not line.startswith("app.y ")]
    assert any(line.startswith(says) for line in broken) if says else broken == []


def test_importing_the_web_program_does_not_import_torch() -> None:
    names = [name for name in read_modules(ROOT) if name.split(".")[0] == "app" and name != "app.worker.engine"]
    script = (f"import importlib, sys\nfor name in {names + list(TORCH_FREE)!r}: importlib.import_module(name)\n"
              f"print(sorted({set(HEAVY)!r} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"
