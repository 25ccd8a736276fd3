"""Faults of a request in plain words: each names its field and says what the field takes.

The limits are read from the pydantic models, which are the only place that states them.  No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sae.errors import UserError

Path = tuple[str | int, ...]
DEVICE = r"^(auto|cpu|cuda(:\d+)?|mps)$"  # the pattern of every setting that names a device

_PREDICATES = {  # by pydantic's type of error, where no limit of the field matters
    "missing": "is missing", "extra_forbidden": "is not a known setting", "json_invalid": "must be valid JSON",
    "string_unicode": "must be text without broken characters", "finite_number": "must be a finite number",
    "too_short": "must name one value or more",
}
_LIMITS = {
    "greater_than_equal": "must be {ge} or more", "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}", "less_than": "must be less than {lt}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
}
_FORMS = {  # what the patterns of our fields mean
    r"^[^/]+/[^/]+$": "must be written as <model>/<name>",
    DEVICE: "must be cpu, cuda, cuda:<number>, mps or auto",
}
_NOUNS = (("int", "a whole number"), ("float", "a number"), ("bool", "yes or no"), ("string", "text"),
          ("dict", "a JSON object"), ("model", "a JSON object"), ("list", "a list"))


@dataclass(frozen=True)
class Fault:
    """One fault of the field at `path`, such as ("sampling", "top_p").

    `words` are a predicate of the field ("must be a number from 0 to 5"), or, with `whole`, a sentence without it;
    `type` is pydantic's.
    """

    path: Path
    words: str
    type: str
    whole: bool = False

    @property
    def field(self) -> str:
        return ".".join(map(str, self.path)) or "request"

    def about(self, name: str) -> str:
        """Return the fault as a sentence about a field that readers know as `name`."""
        return self.words if self.whole else f"{name} {self.words}"


def faults(error: ValidationError, model: type[BaseModel] | None = None) -> list[Fault]:
    """Return every fault of `error`, in the order of the fields; without `model` no limits are named."""
    return [fault_of(found, model) for found in error.errors(include_url=False, include_input=False)]


def takes(model: type[BaseModel] | None, path: Sequence[str | int]) -> str:
    """Return what the field at `path` takes, such as "a whole number from 1 to 8"; "" where no limit says it."""
    kind, limits = _field(model, path)
    if get_origin(kind) is Literal:
        return f"one of: {', '.join(map(str, get_args(kind)))}"
    if kind in (int, float):
        noun = "a whole number" if kind is int else "a number"
        return " ".join([noun, *_range(limits)])
    longest = next((limit.max_length for limit in limits if isinstance(limit, MaxLen)), None)
    if longest is None:
        return ""
    shortest = next((limit.min_length for limit in limits if isinstance(limit, MinLen)), 0)
    count = f"at least {shortest:,} and at most {longest:,}" if shortest else f"at most {longest:,}"
    return f"{count} characters" if kind is str else count


def fault_of(found: Any, model: type[BaseModel] | None = None) -> Fault:
    """Return one of pydantic's error dicts as a fault."""
    path, context = tuple(found["loc"]), found.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, UserError):  # a rule about several fields, which names the one at fault
        more = tuple(int(part) if part.isdigit() else part for part in (cause.field or "").split(".") if part)
        return Fault(path + more, str(cause).removeprefix(f"{cause.field}: "), found["type"], whole=True)
    if found["type"] in _PREDICATES:
        return Fault(path, _PREDICATES[found["type"]], found["type"])
    if found["type"] == "string_too_short" and context["min_length"] == 1:
        return Fault(path, "must not be empty", found["type"])
    if found["type"] == "string_pattern_mismatch":
        return Fault(path, _FORMS.get(context["pattern"], f"must match {context['pattern']}"), found["type"])
    words = "" if found["type"] == "value_error" else takes(model, path)
    if not words:
        message = found["msg"].removeprefix("Value error, ")
        whole = found["type"] == "value_error"
        return Fault(path, message if whole else _without_model(message, found["type"], context), found["type"], whole)
    given = f"; {context['actual_length']:,} are given" if found["type"] == "too_long" else ""
    return Fault(path, f"must be {words}{given}", found["type"])


def _without_model(message: str, kind: str, context: dict[str, Any]) -> str:
    """Return pydantic's message of an error of this kind as a predicate."""
    if kind in _LIMITS:
        return _LIMITS[kind].format(**{name: _number(value) for name, value in context.items()})
    noun = next((noun for mark, noun in _NOUNS if mark in kind), "")
    if noun and kind.endswith(("_parsing", "_type", "_parsing_size", "_from_float")):
        return f"must be {noun}"
    return message.replace("Input should be", "must be")


def _field(model: type[BaseModel] | None, path: Sequence[str | int]) -> tuple[Any, list[Any]]:
    """Return the type and the limits of the field at `path`; (None, []) where the model has no such field."""
    kind: Any = model
    limits: list[Any] = []
    for part in path:
        if isinstance(part, int) and get_origin(kind) is tuple:
            kind, limits = get_args(kind)[0], []
        elif isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
            info = kind.model_fields[part]
            kind, limits = info.annotation, list(info.metadata)
        else:
            return None, []
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            limits += [limit for one in more for limit in (one.metadata if isinstance(one, FieldInfo) else [one])]
    return kind, limits


def _range(limits: Sequence[Any]) -> list[str]:
    low = next((limit for limit in limits if isinstance(limit, Ge | Gt)), None)
    high = next((limit for limit in limits if isinstance(limit, Le | Lt)), None)
    if isinstance(low, Ge) and isinstance(high, Le):
        return [f"from {_number(low.ge)} to {_number(high.le)}"]
    words = []
    if low is not None:
        words.append(f"of {_number(low.ge)} or more" if isinstance(low, Ge) else f"above {_number(low.gt)}")
    if high is not None:
        words.append(f"at most {_number(high.le)}" if isinstance(high, Le) else f"below {_number(high.lt)}")
    return [" and ".join(words)] if words else []


def _number(value: Any) -> str:
    return f"{value:,}".removesuffix(".0").replace("-", "−")
