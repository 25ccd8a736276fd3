"""Tests of imports that wait until what they import is used."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sae.lm.libraries import importing_later

TEXT = """
class Thing:
    size = 3
    @classmethod
    def made(cls):
        return cls()
def double(x):
    return 2 * x
"""
WITHOUT = ("pandas", "datasets", "scipy.optimize", "torch._dynamo")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Provide the name of a package with a module `parts`, which a test imports."""
    (tmp_path / "laterpackage").mkdir()
    (tmp_path / "laterpackage" / "__init__.py").write_text("VERSION = '1.0'")
    (tmp_path / "laterpackage" / "parts.py").write_text(TEXT)
    monkeypatch.syspath_prepend(tmp_path)
    yield "laterpackage"
    for name in [name for name in sys.modules if name.startswith("laterpackage")]:
        del sys.modules[name]


def test_a_name_is_imported_when_it_is_used(package: str) -> None:
    with importing_later({f"{package}.parts": ("Thing", "double")}):
        from laterpackage.parts import Thing, double  # type: ignore[import-not-found]
    assert f"{package}.parts" not in sys.modules
    assert not isinstance(3, Thing)
    assert f"{package}.parts" not in sys.modules
    assert double(4) == 8
    parts = importlib.import_module(f"{package}.parts")
    assert isinstance(Thing(), parts.Thing)
    assert isinstance(parts.Thing(), Thing)
    assert not isinstance(3, Thing)
    assert (Thing.size, type(Thing.made())) == (3, parts.Thing)


def test_a_module_is_imported_when_it_is_used(package: str) -> None:
    with importing_later({package: ()}):
        import laterpackage as later
    assert package not in sys.modules
    assert later.VERSION == "1.0"
    assert package in sys.modules


def test_another_name_imports_the_module_at_once(package: str) -> None:
    with importing_later({package: (), f"{package}.parts": ("Thing",)}):
        from laterpackage.parts import double
        assert double is sys.modules[f"{package}.parts"].double


def test_a_module_that_is_imported_stays(package: str) -> None:
    parts = importlib.import_module(f"{package}.parts")
    with importing_later({f"{package}.parts": ("Thing",)}):
        from laterpackage.parts import Thing
    assert Thing is parts.Thing
    assert sys.modules[f"{package}.parts"] is parts


@pytest.mark.heavy
def test_a_language_model_is_loaded_without_what_it_does_not_need() -> None:
    """Load it in a process of its own; heavy, because importing takes seconds and the result is only a delay."""
    code = ("import sys, torch; from sae.lm.bridge import LanguageModel; lm = LanguageModel.load('demo', 'cpu'); "
            f"lm.logits(torch.tensor([[1, 2]])); print([n for n in {WITHOUT} if n in sys.modules]); "
            "import datasets, torch._dynamo; from transformer_lens.utilities import hf_utils; "
            "print(isinstance(datasets.Dataset.from_dict({'a': [1]}), hf_utils.Dataset))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True"], done.stderr
