"""The surroundings of a pretended device: `torch.cuda`, streams, threads, loading, Triton."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tests.pretended.counts import COUNTERS, Counted
from tests.pretended.tensor import (
    CPU,
    Pretended,
    PretendedMode,
    accelerator,
    device_of,
    move,
    plain,
    pretended,
)

_MEMORY = 1 << 37  # bytes that a pretended device says it has


class Stream:
    """A stream that carries out everything at once; it keeps a list of what was asked of it."""

    def __init__(self, device: Any = None, **_: Any) -> None:
        self.device = accelerator(device) or torch.device("cuda", 0)
        self.events: list[str] = []

    def record_event(self, event: Any = None) -> Event:
        event = event or Event()
        self.events.append("record")
        return event  # type: ignore[no-any-return]

    def wait_event(self, event: Event) -> None:
        self.events.append("wait_event")

    def wait_stream(self, stream: Stream) -> None:
        self.events.append("wait_stream")

    def synchronize(self) -> None:
        self.events.append("synchronize")
        for counter in COUNTERS:
            counter.wait("synchronize")

    def query(self) -> bool:
        return True


class Event:
    """An event that has happened as soon as it is recorded."""

    def __init__(self, **_: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        for counter in COUNTERS:
            counter.wait("synchronize")

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Event) -> float:
        return 1.0


class Generator(torch.Generator):
    """A generator of random numbers of the pretended device."""

    where: torch.device

    def __new__(cls, device: Any = "cpu") -> Generator:
        self = super().__new__(cls)
        self.where = accelerator(device) or CPU
        return self

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.where


class PretendedDevice:
    """The device while it is pretended, with its streams."""

    def __init__(self, kind: str, count: int) -> None:
        self.kind, self.count = kind, count
        self.streams: list[Stream] = []
        self._of_thread = threading.local()

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counted]:
        """Count waits, launches and live bytes until the block ends."""
        counted = Counted()
        COUNTERS.append(counted)
        try:
            yield counted
        finally:
            COUNTERS.remove(counted)

    def stream_class(self) -> type[Stream]:
        """Return a class of streams that this device remembers."""
        made = self.streams

        class Remembered(Stream):
            def __init__(self, device: Any = None, **options: Any) -> None:
                super().__init__(device, **options)
                made.append(self)

        return Remembered

    def current_stream(self, device: Any = None) -> Stream:
        stack = getattr(self._of_thread, "stack", None)
        return stack[-1] if stack else self._default(device)

    def _default(self, device: Any) -> Stream:
        if not hasattr(self, "_main"):
            self._main = Stream(device)
        return self._main

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        stack = self._of_thread.__dict__.setdefault("stack", [])
        stack.append(stream)
        try:
            yield
        finally:
            stack.pop()


@contextlib.contextmanager
def pretend(kind: str = "cuda", count: int = 2, *, triton: bool = False) -> Iterator[PretendedDevice]:
    """Pretend that this machine has `count` devices of a kind (cuda or mps), for all threads, until the block ends.

    `triton` chooses the kernels instead of torch's own operations.
    """
    from sae.kernels import device as dispatch

    device = PretendedDevice(kind, count)
    with contextlib.ExitStack() as stack:
        def patch(target: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(target, name, value))

        for name, value in (_cuda(device) if kind == "cuda" else {}).items():
            patch(torch.cuda, name, value)
        if kind == "mps":
            patch(torch.backends.mps, "is_available", lambda: True)
        patch(torch, "Generator", Generator)
        patch(torch, "load", _loading(torch.load))
        patch(torch, "autocast", _autocast)
        patch(torch.amp, "autocast", _autocast)
        patch(torch._C, "_group_tensors_by_device_and_dtype",
              _grouping(torch._C._group_tensors_by_device_and_dtype))
        patch(threading.Thread, "run", _in_mode(threading.Thread.run))
        _patch_safetensors(patch)
        if triton:
            from triton.runtime import interpreter

            from tests.pretended.launches import patch_once_a_launch
            from tests.pretended.rounding import round_as_a_gpu_does

            round_as_a_gpu_does()
            patch_once_a_launch()
            patch(interpreter.GridExecutor, "__call__", _launching(interpreter.GridExecutor.__call__))
        patch(dispatch, "_triton", lambda: triton)
        stack.enter_context(PretendedMode())
        yield device


def _cuda(device: PretendedDevice) -> dict[str, Any]:
    return {
        "is_available": lambda: True, "device_count": lambda: device.count, "current_device": lambda: 0,
        "is_initialized": lambda: True, "_lazy_init": lambda: None, "init": lambda: None,
        "_exchange_device": lambda index: 0, "_maybe_exchange_device": lambda index: 0,
        "set_device": lambda index: None,
        "synchronize": lambda *_: [counter.wait("synchronize") for counter in COUNTERS] and None,
        "Stream": device.stream_class(), "Event": Event, "current_stream": device.current_stream,
        "default_stream": device.current_stream, "stream": device.stream, "empty_cache": lambda: None,
        "mem_get_info": lambda *_: (_MEMORY, _MEMORY), "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0, "reset_peak_memory_stats": lambda *_: None,
        "get_device_name": lambda *_: "pretended", "get_device_capability": lambda *_: (9, 0),
        "is_bf16_supported": lambda *_: True, "manual_seed_all": lambda seed: None, "manual_seed": lambda seed: None,
        "get_device_properties": lambda *_: SimpleNamespace(
            total_memory=_MEMORY, name="pretended", major=9, minor=0, multi_processor_count=132)}


class _autocast(torch.autocast):
    """Autocast of the CPU under the device's name."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu", *args, **kwargs)


def _in_mode(run: Callable[..., None]) -> Callable[..., None]:
    """Return a thread's `run` that obeys the pretended devices; modes belong to a thread."""
    def running(self: threading.Thread) -> None:
        with PretendedMode():
            run(self)

    return running


def _loading(load: Callable[..., Any]) -> Callable[..., Any]:
    def loading(*args: Any, map_location: Any = None, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            value = load(*args, map_location="cpu", **kwargs)
        target = accelerator(map_location) if isinstance(map_location, str | torch.device) else None
        return _moved(value, target) if target else value

    return loading


def _moved(value: Any, target: torch.device) -> Any:
    if isinstance(value, Tensor):
        return move(value, target)
    if isinstance(value, dict):
        return type(value)((name, _moved(part, target)) for name, part in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_moved(part, target) for part in value)
    return value


def _grouping(group: Callable[..., Any]) -> Callable[..., Any]:
    """Return torch's grouping of tensors with the devices that they claim to be on."""
    def grouping(lists: Any, with_indices: bool = False) -> Any:
        with torch._C.DisableTorchFunction():
            found = group(plain(lists), with_indices)
        where = next((device_of(tensor) for tensor in lists[0] if tensor is not None), CPU)
        return {(where, dtype): (
            [[None if one is None else pretended(one, where) for one in part] for part in parts], indices)
            for (_, dtype), (parts, indices) in found.items()}

    return grouping


def _launching(execute: Callable[..., None]) -> Callable[..., None]:
    """Return the interpreter's launch for pretended tensors: all pointers must be the device's."""
    def launching(self: Any, *args: Any, **kwargs: Any) -> None:
        tensors = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)]
        if not all(isinstance(tensor, Pretended) for tensor in tensors):
            raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")
        for counter in COUNTERS:
            counter.launch(self.fn.__name__)
        args = tuple(plain(arg) for arg in args)
        with torch._C.DisableTorchFunction():
            execute(self, *args, **{name: plain(arg) for name, arg in kwargs.items()})

    return launching


def _patch_safetensors(patch: Callable[..., None]) -> None:
    import safetensors.torch as library

    from sae.autoencoder import artefact

    def load_file(path: Any, device: Any = "cpu") -> dict[str, Tensor]:
        with torch._C.DisableTorchFunction():
            tensors = original(path)
        return {name: move(tensor, accelerator(device) or CPU) for name, tensor in tensors.items()}

    original = library.load_file
    patch(library, "load_file", load_file)
    patch(artefact, "load_file", load_file)
