"""The form of a spec: every setting with its meaning, unit, default and reason, from `sae.specs.registry` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sae.faults import faults
from sae.specs.registry import SPECS, SweepSpec, TrainSpec, as_text, demo_spec

# group -> (heading, whether it is open at first)
GROUPS = {
    "what": ("Model, text and site", True),
    "sae": ("The dictionary", True),
    "rule": ("Architecture-specific", False),
    "training": ("Training", False),
    "stream": ("Activations and device", False),
    "evaluation": ("Calibration and evaluation", False),
    "index": ("Index", False),
    "explainer": ("Explainer", True),
    "scores": ("Scores", True),
    "cost": ("Requests and budget", True),
}
_LABELS = {
    "n_latents": "Latents (L)", "k": "Latents per token (k)", "sae": "SAE", "timeout_s": "Timeout",
    "answer_tokens": "Tokens of an answer", "lr": "Learning rate",
    "k_aux": "Dead latents in AuxK", "ce_tokens": "ΔCE tokens", "eval_tokens": "Evaluation tokens",
    "aux_alpha": "AuxK weight (α)", "train_on_bos": "Train on BOS",
    "index": "Build the index", "bos": "BOS", "subtract_b_dec": "Subtract b_dec", "out_hook": "Hook written",
    "hook": "Hook read",
    "batch_tokens": "Batch (B)", "normalize": "Normalisation", "l1_coefficient": "L1 coefficient",
    "l0_penalty": "L0 penalty", "l0_coefficient": "L0 coefficient", "multi_topk": "Multi-TopK",
    "b_dec_init": "b_dec starts at", "site": "Site read", "out_site": "Site reconstructed",
}


@dataclass(frozen=True)
class FormField:
    """One setting as a form shows it.  `kind` is text, number, choice or check."""

    name: str
    label: str
    kind: str
    value: Any
    default: str
    description: str
    unit: str
    why: str
    choices: tuple[str, ...]
    range: str
    error: str


@dataclass(frozen=True)
class FormGroup:
    """The settings of one group; `open` where they are usual, changed or at fault."""

    title: str
    fields: list[FormField]
    open: bool


PRESETS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # key: (name, what it is for, the settings that differ from the defaults)
    "quick": (
        "Quick trial", "A small dictionary on little text, done in about a minute, to see the whole process",
        {"n_latents": 1024, "k": 16, "tokens": 300_000, "eval_tokens": 30_000, "index_tokens": 100_000,
         "buffer_tokens": 65_536}),
    "demo": (
        "The demo's settings", "The SAE that an empty workspace trains: BatchTopK on the embedded model",
        {**demo_spec().model_dump(exclude_defaults=True), "name": ""}),
    "topk": (
        "TopK for comparison", "The demo's settings with exactly k latents on every token, to compare with BatchTopK",
        {**demo_spec().model_dump(exclude_defaults=True), "name": "", "architecture": "topk"}),
    "transcoder": (
        "Transcoder of an MLP", "Reads the input of block 2's MLP and reconstructs its output",
        {**demo_spec().model_dump(exclude_defaults=True), "name": "", "site": "ln2.hook_normalized",
         "out_site": "hook_mlp_out", "normalize": "dataset"}),
    "own": (
        "Own model and text", "Name your model and text below; the rest suits a model of GPT-2's size",
        {"model": "", "text": "", "layer": 6, "n_latents": 16_384, "tokens": 50_000_000, "index_tokens": 2_000_000}),
}


SWEEPS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "small": (
        "A small grid", "Two architectures, two sizes, three k on the embedded model: 12 SAEs in a few minutes",
        {"n_latents": (1024, 2048), "tokens": 1_000_000, "reuse": 2, "eval_tokens": 50_000, "ce_tokens": 8_192,
         "index": False}),
    "paper": (
        "The BatchTopK paper's grid", "Four sizes, three k, three architectures: 36 SAEs; for a GPU. Name your model "
        "and text below",
        {"model": "", "text": "", "architecture": ("batch_topk", "topk", "jumprelu"),
         "n_latents": (3072, 6144, 12_288, 24_576), "layer": 8, "tokens": 1_000_000_000, "batch_tokens": 4096,
         "index": False}),
}


def presets(kind: str) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return the presets of a form."""
    return {"train": PRESETS, "sweep": SWEEPS}.get(kind, {})


def groups(kind: str, values: Mapping[str, Any], errors: Mapping[str, str]) -> list[FormGroup]:
    """Return the form of a spec with `values` as they were typed, and a message at each field at fault."""
    shown = []
    for key, (title, usual) in GROUPS.items():
        infos = {
            name: info for name, info in SPECS[kind].model_fields.items() if _extra(info).get("group") == key}
        if not infos:
            continue
        fields = [_field(name, info, values, errors.get(name, "")) for name, info in infos.items()]
        changed = any(name in values and _shown(values[name]) != _shown(info.default) for name, info in infos.items()
                      if name != "source")
        usual = usual and kind != "import"  # its usual settings come from the file
        at_fault = any(field.error for field in fields if field.name != "source")  # which stands above all groups
        shown.append(FormGroup(title, fields, usual or changed or at_fault))
    return shown


def defaults(kind: str) -> dict[str, Any]:
    """Return the values of an untouched form."""
    return {
        name: "" if info.default is PydanticUndefined else info.default
        for name, info in SPECS[kind].model_fields.items()}


def read_form(kind: str, form: Mapping[str, Any]) -> dict[str, Any]:
    """Return the typed values by setting.  A box that is not ticked is not sent, and means no."""
    values: dict[str, Any] = {}
    for name, info in SPECS[kind].model_fields.items():
        if info.annotation is bool:
            values[name] = name in form
        elif name in form:
            values[name] = str(form[name]).strip()
    return values


def spec_values(kind: str, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return typed values as a spec takes them: an emptied number means its default; 1_000 and 1,000 are numbers."""
    values = dict(typed)
    for name, info in SPECS[kind].model_fields.items():
        if info.annotation in (int, float) and isinstance(values.get(name), str):
            text = values[name].replace(",", "").replace("_", "").replace(" ", "")
            values[name] = text
            if not text:
                del values[name]
    return values


def find_errors(kind: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the message of every setting at fault; under "" is what concerns no single setting."""
    try:
        SPECS[kind](**values)
    except ValidationError as error:
        found: dict[str, str] = {}
        for fault in faults(error, SPECS[kind]):
            field = str(fault.path[0]) if fault.path else fault.words.partition(":")[0]
            message = fault.about(field).removeprefix(f"{field}: ")
            found.setdefault(field if field in SPECS[kind].model_fields else "", message)
        return found
    return {}


def settings(kind: str) -> list[FormField]:
    """Return every setting of a kind of run in the order of its form, with its default."""
    return [field for group in groups(kind, {}, {}) for field in group.fields]


def in_order(kind: str, spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a spec's settings in the order of the form, with their values as text; unknown ones last."""
    fields = SPECS[kind].model_fields if kind in SPECS else {}
    known = [name for key in GROUPS for name, info in fields.items() if _extra(info).get("group") == key]
    names = [name for name in known if name in spec] + [name for name in spec if name not in known]
    return [(name, _default_words(spec[name])) for name in names]


def label(name: str) -> str:
    """Return what a form calls a setting."""
    return _LABELS.get(name, name.replace("_", " ").capitalize())


def preset(kind: str, name: str) -> dict[str, Any]:
    """Return the values of a form with this preset; an unknown name gives the defaults."""
    known = presets(kind)
    return defaults(kind) | (known[name][2] if name in known else {})


def _extra(info: FieldInfo) -> dict[str, Any]:
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}


def _field(name: str, info: FieldInfo, values: Mapping[str, Any], error: str) -> FormField:
    extra, annotation = _extra(info), info.annotation
    choices = tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()
    number = annotation in (int, float)
    default = "" if info.default is PydanticUndefined else info.default
    return FormField(
        name=name, label=label(name),
        kind="check" if annotation is bool else "choice" if choices else "number" if number else "text",
        value=_shown(values.get(name, default)), default=_default_words(default),
        description=str(info.description or ""), unit=str(extra.get("unit", "")), why=str(extra.get("why", "")),
        choices=choices, range=_range(info), error=error.removeprefix(f"{name}: "))


def _shown(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, bool) else as_text(value)


def _default_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}"
    return str(_shown(value)) or "empty"


def _range(info: FieldInfo) -> str:
    """Return the limits of a number as text: "from 8 to 8,192", "above 0"."""
    words: list[str] = []
    for limit in info.metadata:
        if isinstance(limit, Ge):
            words.insert(0, f"from {limit.ge:,}")
        elif isinstance(limit, Gt):
            words.insert(0, f"above {limit.gt:,}")
        elif isinstance(limit, Le):
            words.append(f"to {limit.le:,}")
        elif isinstance(limit, Lt):
            words.append(f"below {limit.lt:,}")
    return " ".join(words)


def spec_of(kind: str, values: Mapping[str, Any]) -> TrainSpec | SweepSpec | None:
    """Return the spec of a training or a sweep, or None while something in it is at fault."""
    try:
        return SweepSpec(**values) if kind == "sweep" else TrainSpec(**values)
    except ValidationError:
        return None
