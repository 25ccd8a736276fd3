"""The names of transformer_lens and transformers that this program uses, imported without what it does not use.

The two libraries import others at once that only rare uses of them need: `datasets` with pandas and pyarrow,
`scipy.optimize`, and torch's compiler.  These are a quarter of the time until a language model is loaded, in every
process that loads one.  Here they are imported when they are first used.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

# Set before the import: transformer_lens imports an experiment tracker that would look for a login.
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

__all__ = [
    "COMPILER", "SUPPORTED_ARCHITECTURES", "AttentionInterface", "CacheBase", "TransformerBridge", "importing_later",
    "transformers_logging", "transformers_source"]


class _Later(type):
    """A class or function whose module is imported when it is first called or asked for an attribute."""

    def _real(cls) -> Any:
        return getattr(importlib.import_module(cls.__module__), cls.__name__)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real()(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        real = getattr(sys.modules.get(cls.__module__), cls.__name__, None)
        return isinstance(real, type) and isinstance(instance, real)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(cls._real(), name)


class _Stub(ModuleType):
    """A module in the place of one that is imported later; a name that it does not have imports the real one."""

    def __init__(self, name: str, has: Mapping[str, Any], stubs: Mapping[str, ModuleType]) -> None:
        super().__init__(name)
        if "." not in name:
            self.__spec__ = importlib.util.find_spec(name)  # which libraries ask whether a package is installed
        self.__dict__.update(has, _stubs=stubs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _remove(self._stubs)
        return getattr(importlib.import_module(self.__name__), name)


def _remove(stubs: Mapping[str, ModuleType]) -> None:
    for name, stub in stubs.items():
        if sys.modules.get(name) is stub:
            del sys.modules[name]


def _unmarked(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """Return the function as it is, instead of marked for torch's compiler: this program compiles no model."""
    return _unmarked if function is None else function


@contextlib.contextmanager
def importing_later(later: Mapping[str, tuple[str, ...]]) -> Iterator[None]:
    """Let imports of modules, and of these names from them, succeed without the modules, unless they are imported."""
    stubs: dict[str, ModuleType] = {}
    for name, names in later.items():
        if name not in sys.modules:
            has = {one: _unmarked if name == _COMPILER else _Later(one, (), {"__module__": name}) for one in names}
            stubs[name] = sys.modules[name] = _Stub(name, has, stubs)
    try:
        yield
    finally:
        _remove(stubs)


_COMPILER = "torch._dynamo"
COMPILER = {_COMPILER: ("disable", "allow_in_graph", "assume_constant_result")}  # what marks functions for it
_LATER = COMPILER | {  # the names that the libraries import while they are imported themselves
    f"{_COMPILER}._trace_wrapped_higher_order_op": ("TransformGetItemToIndex",), "pandas": (),
    "datasets": ("load_dataset",), "datasets.load": ("load_dataset",), "datasets.arrow_dataset": ("Dataset",),
    "datasets.iterable_dataset": ("IterableDataset",), "scipy.optimize": ("linear_sum_assignment",)}

with importing_later(_LATER):
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources.transformers import source as transformers_source
    from transformers import AttentionInterface, masking_utils  # noqa: F401  (every model imports it, and the compiler)
    from transformers.cache_utils import Cache as CacheBase
    from transformers.utils import logging as transformers_logging
