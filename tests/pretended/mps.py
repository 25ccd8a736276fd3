"""The operations and types that Apple's GPUs do not have, by torch's own table of its kernels.

torch ships `native_functions.yaml` with its code generator: for every operation, the backends that have a kernel.  An
operation without one for MPS raises NotImplementedError on a real device too.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_COMPOSITE = ("CompositeImplicitAutograd", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional",
              "CompositeImplicitAutogradNestedTensor")


@functools.cache
def supported() -> frozenset[str]:
    """Return the names (with overloads) of the operations that MPS has."""
    import torchgen

    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    entries = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    own, delegates = set(), {}
    for entry in entries:
        name = entry["func"].split("(")[0]
        keys = {key.strip() for group in entry.get("dispatch", {}) for key in group.split(",")}
        if "structured_delegate" in entry:
            delegates[name] = entry["structured_delegate"]
        elif not keys or keys & {"MPS", *_COMPOSITE}:
            own.add(name)
    return frozenset(own | {name for name, target in delegates.items() if target in own})


class refusing(TorchDispatchMode):
    """Refuses what MPS lacks: operations without a kernel, and float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::") + (
            f".{func._schema.overload_name}" if func._schema.overload_name else "")
        if name not in supported() and func.namespace == "aten" and "_for_cpu" not in name:  # the CPU's own
            raise NotImplementedError(f"The operator 'aten::{name}' is not currently implemented for the MPS device.")
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else (out,):
            if isinstance(part, Tensor) and part.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
                                "float64. Please use float32 instead.")
        return out
