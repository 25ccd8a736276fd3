"""The tensors of a pretended device, and its rules for every function of torch.

`Pretended` is a tensor on the CPU with another device's name.  A function mode sees every call, of plain tensors too.
It refuses operations on tensors of two devices and reads of device memory by the host, then lets torch compute on the
CPU, and gives the device's name to the results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.pretended.counts import COUNTERS, watching

CPU = torch.device("cpu")
_ACCELERATORS = ("cuda", "mps")
# Functions in which a tensor of another device is moved, or only looked at.
_CROSSING = {"copy_", "__getitem__", "__setitem__", "index_put_", "index_put", "index", "__contains__", "type_as",
             "_has_compatible_shallow_copy_type", "is_set_to", "__get__", "__set__"}
_SCALARS_OF_THE_HOST_TOO = {"_foreach_mul_", "_foreach_mul", "_foreach_add_", "index_add_", "index_select", "gather",
                            "scatter_", "cat", "stack", "mm", "addmm", "bmm", "matmul", "searchsorted", "bucketize",
                            "embedding", "embedding_bag", "index_fill_", "index_copy_"}  # they refuse even scalars
_HOST_READS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__complex__", "is_nonzero"}


class Pretended(Tensor):
    """A tensor that says it is on another device; its data are on the CPU."""

    where: torch.device

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(func, args, kwargs or {})


class PretendedMode(TorchFunctionMode):
    """A mode under which every function of torch obeys the pretended devices."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _OF_ANY_TENSOR and not _concerns_a_device((args, kwargs)):
            return func(*args, **kwargs)  # a mode below this one, such as a default device, may have its say
        return call(func, args, kwargs)


def _concerns_a_device(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_concerns_a_device, value))
    if isinstance(value, dict):
        return "pin_memory" in value or any(map(_concerns_a_device, value.values()))
    if isinstance(value, str):
        return value.partition(":")[0] in _ACCELERATORS
    return isinstance(value, Pretended) or (isinstance(value, torch.device) and value.type in _ACCELERATORS)


def device_of(tensor: Tensor) -> torch.device:
    """Return the device that the tensor claims to be on."""
    if isinstance(tensor, Pretended):
        return tensor.where
    with torch._C.DisableTorchFunction():
        return tensor.device


def pretended(value: Any, device: torch.device) -> Any:
    """Return the value with all tensors in it claiming to be on `device`."""
    if isinstance(value, Tensor):
        if isinstance(value, Pretended) or device.type not in _ACCELERATORS:
            return value
        with torch._C.DisableTorchFunction():
            out = value.as_subclass(Pretended)
        out.where = device
        for counter in COUNTERS:
            counter.hold(value)
        return out
    if isinstance(value, tuple | list):
        parts = [pretended(part, device) for part in value]
        if hasattr(value, "_fields"):
            return type(value)(*parts)
        return type(value)(parts)
    return value


def plain(value: Any) -> Any:
    """Return the value with all pretended tensors in it as the CPU's, sharing memory."""
    if isinstance(value, Pretended):
        with torch._C.DisableTorchFunction():
            return value.as_subclass(Tensor)
    if isinstance(value, tuple | list):
        return type(value)(*map(plain, value)) if hasattr(value, "_fields") else type(value)(map(plain, value))
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return value


def accelerator(device: Any) -> torch.device | None:
    """Return the device with its index, if it is one that is pretended here."""
    if device is None or isinstance(device, int):
        return None if device is None else torch.device("cuda", device)
    device = torch.device(device)
    return torch.device(device.type, device.index or 0) if device.type in _ACCELERATORS else None


def call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Carry out one function of torch by the rules of the devices."""
    with torch._C.DisableTorchFunction():
        return _RULES.get(func, _usual)(func, args, kwargs)


def _usual(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = list(_tensors((args, kwargs)))
    there = {tensor.where for tensor in tensors if isinstance(tensor, Pretended)}
    device = _result_device(kwargs, there)
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if not there and device.type not in _ACCELERATORS:
        return func(*args, **kwargs)
    name = getattr(func, "__name__", str(func))
    _refuse_two_devices(name, args, tensors, there)
    _refuse_foreign_generator(kwargs, device)
    if accelerator(kwargs.get("device")):
        kwargs = {**kwargs, "device": CPU}
    with watching(device, name, args, host_read=name in _HOST_READS):
        out = func(*args, **kwargs)
    return pretended(out, device)


def _result_device(kwargs: dict[str, Any], there: set[torch.device]) -> torch.device:
    asked = kwargs.get("device")
    if asked is not None:
        return accelerator(asked) or torch.device(asked)
    return next(iter(there), CPU)


def _refuse_two_devices(name: str, args: Any, tensors: list[Tensor], there: set[torch.device]) -> None:
    """Raise the RuntimeError of a real device for operands on several devices."""
    indexing = name in ("__getitem__", "index", "__setitem__", "index_put_", "index_put")
    if indexing and not isinstance(args[0], Pretended):
        if any(part.dim() for part in tensors[1:] if isinstance(part, Pretended)):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        return
    if name in _CROSSING or name.startswith("__get__"):
        return
    strangers = {device_of(tensor) for tensor in tensors
                 if tensor.dim() or isinstance(tensor, Pretended) or name in _SCALARS_OF_THE_HOST_TOO}
    if len(strangers | there) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, "
                           f"{' and '.join(sorted(map(str, strangers | there)))}! (in {name})")


def _refuse_foreign_generator(kwargs: dict[str, Any], device: torch.device) -> None:
    generator = kwargs.get("generator")
    if generator is not None and generator_device(generator) != device:
        raise RuntimeError(f"Expected a '{device}' device type for generator but found '{generator_device(generator)}'")


def generator_device(generator: torch.Generator) -> torch.device:
    return getattr(generator, "where", CPU)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


# ---- functions with rules of their own

Rule = Callable[[Any, Any, dict[str, Any]], Any]
_RULES: dict[Any, Rule] = {}


def rule(*functions: Any) -> Callable[[Rule], Rule]:
    def add(own: Rule) -> Rule:
        _RULES.update(dict.fromkeys(functions, own))
        return own

    return add


@rule(Tensor.device.__get__)  # type: ignore[attr-defined]
def _device(func: Any, args: Any, kwargs: Any) -> torch.device:
    return device_of(args[0])


@rule(Tensor.is_cuda.__get__, Tensor.is_mps.__get__, Tensor.is_cpu.__get__)  # type: ignore[attr-defined]
def _is_type(func: Any, args: Any, kwargs: Any) -> bool:
    return bool(func.__self__.__name__ == f"is_{device_of(args[0]).type}")


@rule(Tensor.get_device)
def _index(func: Any, args: Any, kwargs: Any) -> int:
    return args[0].where.index if isinstance(args[0], Pretended) else -1


@rule(Tensor.numpy, Tensor.__array__)
def _numpy(func: Any, args: Any, kwargs: Any) -> Any:
    if isinstance(args[0], Pretended):
        raise TypeError(f"can't convert {args[0].where} device type tensor to numpy. Use Tensor.cpu() to copy the "
                        "tensor to host memory first.")
    with torch._C.DisableTorchFunction():
        return func(*args, **kwargs)


@rule(Tensor.data.__set__)  # type: ignore[attr-defined]
def _set_data(func: Any, args: Any, kwargs: Any) -> None:
    """Give a tensor other data; it then is where the data are, as a module's parameter is after `Module.to`."""
    target, data = args
    with torch._C.DisableTorchFunction():
        func(target, data)
    if isinstance(data, Pretended):
        parameter = isinstance(target, torch.nn.Parameter)
        target.__class__ = Pretended
        target.where = data.where
        target._is_param = parameter
    elif isinstance(target, Pretended):
        target.__class__ = torch.nn.Parameter if isinstance(target, torch.nn.Parameter) else Tensor


@rule(Tensor.grad.__get__)  # type: ignore[attr-defined]
def _get_grad(func: Any, args: Any, kwargs: Any) -> Any:
    with torch._C.DisableTorchFunction():
        grad = func(*args)
        if isinstance(args[0], Pretended) and isinstance(grad, Tensor) and not isinstance(grad, Pretended):
            grad = args[0].grad = pretended(grad.detach(), args[0].where)
    return grad


@rule(Tensor.cpu)
def _to_cpu(func: Any, args: Any, kwargs: Any) -> Tensor:
    return move(args[0], CPU)


@rule(Tensor.cuda)
def _to_cuda(func: Any, args: Any, kwargs: Any) -> Tensor:
    return move(args[0], accelerator(args[1] if len(args) > 1 else "cuda") or CPU)


@rule(Tensor.to)
def _to(func: Any, args: Any, kwargs: Any) -> Tensor:
    tensor, *rest = args
    device, dtype, keep = None, None, {}
    kwargs = dict(kwargs)
    device = kwargs.pop("device", None)
    dtype = kwargs.pop("dtype", None)
    other = kwargs.pop("other", None)
    for value in rest:
        if isinstance(value, Tensor):
            other = value
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, str | torch.device | int) and not isinstance(value, bool):
            device = value
        elif isinstance(value, bool):
            keep.setdefault("non_blocking" if "non_blocking" not in keep else "copy", value)
    if other is not None:
        device, dtype = device_of(other), other.dtype
    target = device_of(tensor) if device is None else accelerator(device) or CPU
    return move(tensor, target, dtype, **keep, **kwargs)


def move(
    tensor: Tensor, target: torch.device, dtype: torch.dtype | None = None, *, non_blocking: bool = False,
    copy: bool = False, **rest: Any,
) -> Tensor:
    """Return the tensor on another device, a copy unless it is there already."""
    source = device_of(tensor)
    if target.type == "mps" and (dtype or tensor.dtype) == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    crossing = source != target
    for counter in COUNTERS:
        if crossing and not non_blocking:
            counter.wait("copy to the host" if target.type == "cpu" else "copy to the device", tensor)
    with torch._C.DisableTorchFunction(), (contextlib.nullcontext() if crossing else watching(target, "to", ())):
        out: Tensor = tensor.to(dtype=dtype or tensor.dtype, copy=copy or crossing, **rest)
        if crossing and isinstance(out, Pretended):
            out = out.as_subclass(Tensor)
    return out if out is tensor else pretended(out, target)  # type: ignore[no-any-return]


@rule(torch.tensor, torch.as_tensor, torch.asarray)
def _from_host(func: Any, args: Any, kwargs: Any) -> Tensor:
    kwargs = dict(kwargs)
    asked = kwargs.pop("device", None)
    data = args[0] if args else kwargs["data"]
    if isinstance(data, Tensor):
        if func is torch.tensor:
            data = data.detach().clone()
        target = device_of(data) if asked is None else accelerator(asked) or CPU
        return move(data, target, kwargs.get("dtype"))
    if isinstance(data, list | tuple) and any(isinstance(part, Pretended) for part in _tensors(data)):
        for counter in COUNTERS:
            counter.wait("a list of the device's numbers", data)
    with torch._C.DisableTorchFunction():
        out = func(*plain(list(args)), **kwargs)
    return move(out, accelerator(asked) or CPU) if asked is not None else out


@rule(Tensor.new_tensor)
def _new_tensor(func: Any, args: Any, kwargs: Any) -> Tensor:
    kwargs = dict(kwargs)
    asked = kwargs.pop("device", None)
    with torch._C.DisableTorchFunction():
        out = func(*plain(list(args)), **kwargs)
    return move(out, device_of(args[0]) if asked is None else accelerator(asked) or CPU)


@rule(Tensor.copy_)
def _copy(func: Any, args: Any, kwargs: Any) -> Tensor:
    target, source = args[0], args[1]
    blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
    if device_of(target) != device_of(source) and blocking:
        for counter in COUNTERS:
            counter.wait("copy_ between devices", source)
    with torch._C.DisableTorchFunction(), watching(device_of(target), "copy_", ()):
        func(*args, **kwargs)
    return target  # type: ignore[no-any-return]


@rule(Tensor.__reduce_ex__)
def _reduce(func: Any, args: Any, kwargs: Any) -> Any:
    """Pickle the tensor's data; `tests.pretended.device` gives a loaded tensor its device."""
    with torch._C.DisableTorchFunction():
        return func(plain(args[0].detach()), *args[1:])


_OF_ANY_TENSOR = frozenset({Tensor.cuda})  # it names no device
