"""The account of a pretended device: waits of the host, launches, and live bytes.

Operations are counted as torch's dispatcher sees them.  A view launches nothing; every other operation counts as one
launch, although some of them (a sort, a scan) take a few on a real device.  The host waits for the device when it
reads a number, copies between the memories without `non_blocking`, or must learn a size (`nonzero`, a mask as index).
"""

from __future__ import annotations

import contextlib
import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_SILENT = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "resize_", "set_",
           "_local_scalar_dense", "is_pinned", "_unsafe_view", "detach", "detach_", "alias", "_reshape_alias",
           "is_same_size", "_has_compatible_shallow_copy_type", "squeeze_", "unsqueeze_", "t_", "transpose_"}
_SIZES_ON_THE_HOST = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "equal",
                      "_local_scalar_dense", "is_nonzero", "histc", "multinomial"}
_WITH_MASKS = {"index", "index_put_", "index_put", "_index_put_impl_"}


@dataclass
class Counted:
    """The counts of one stretch of work."""

    waits: list[str] = field(default_factory=list)
    launches: Counter[str] = field(default_factory=Counter)
    live: int = 0
    peak: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _held: dict[int, int] = field(default_factory=dict)

    @property
    def n_launches(self) -> int:
        return sum(self.launches.values())

    def wait(self, why: str, _about: Any = None) -> None:
        """Note that the host waits, with the line of the program that made it."""
        lines = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in traceback.extract_stack()
                 if "/sae/" in frame.filename]
        self.waits.append(f"{why} at {' < '.join(lines[:-4:-1])}")

    def launch(self, name: str) -> None:
        self.launches[name] += 1

    def hold(self, tensor: Tensor) -> None:
        """Count the tensor's memory until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        with self._lock:
            if key in self._held or not size:
                return
            self._held[key] = size
            self.live += size
            self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        with self._lock:
            self.live -= self._held.pop(key, 0)


COUNTERS: list[Counted] = []


class _Watch(TorchDispatchMode):
    """Counts what the dispatcher sees during one function of torch on the pretended device."""

    def __init__(self, host_read: bool) -> None:
        super().__init__()
        self.host_read = host_read

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        launches = not func.is_view and name not in _SILENT
        masks = 0
        if name in _WITH_MASKS:
            masks = sum(part is not None and part.dtype in (torch.bool, torch.uint8) for part in args[1])
            if name != "index" and args[2].numel() == 1:
                masks = 0  # torch fills by the mask then
        for counter in COUNTERS:
            if launches:
                counter.launch(name)
            if name in _SIZES_ON_THE_HOST and not self.host_read:
                counter.wait(name)
            for _ in range(masks):
                counter.wait("a mask as index")
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else (out,):
            if isinstance(part, Tensor):
                for counter in COUNTERS:
                    counter.hold(part)
        return out


@contextlib.contextmanager
def watching(device: torch.device, name: str, args: Any, host_read: bool = False) -> Iterator[None]:
    """Count one function of torch on an accelerator, while anything counts."""
    from tests.pretended.mps import refusing

    if device.type not in ("cuda", "mps") or not (COUNTERS or device.type == "mps"):
        yield
        return
    for counter in COUNTERS:
        if host_read:
            counter.wait(name)
        if name in ("__getitem__", "__setitem__"):
            for _ in range(_host_indices(args[1])):
                counter.wait("an index from the host")
    with contextlib.ExitStack() as stack:
        if COUNTERS:
            stack.enter_context(_Watch(host_read))
        if device.type == "mps":
            stack.enter_context(refusing())
        yield


def _host_indices(index: Any) -> int:
    """Return how many parts of an index must be copied to the device: tensors of the host and lists."""
    from tests.pretended.tensor import Pretended

    parts = index if isinstance(index, tuple) else (index,)
    return sum(isinstance(part, list) or (isinstance(part, Tensor) and not isinstance(part, Pretended)
                                          and part.dim() > 0) for part in parts)
