"""The settings of every kind of run: one source for the command line, the form and the docs.

Each field states its meaning (`description`), its unit and the reason for its default (`json_schema_extra`: `unit`,
`why`, `group`).  Contradictions are rejected here, before anything is loaded, with a message that names the field.  No
torch.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError, model_validator
from pydantic_core import PydanticUndefined

from sae.data.texts import STDLIB
from sae.errors import UserError
from sae.faults import DEVICE
from sae.lm.model_info import DEMO
from sae.lm.sites import EMBED, HEADS, site_hook
from sae.lm.sites import Kind as Site
from sae.specs.contradictions import prefix_sizes
from sae.specs.evaluate import EvaluateSpec
from sae.specs.explain import ExplainSpec
from sae.specs.imports import ImportSpec
from sae.specs.training import (
    DEVICES,
    MARKUP,
    TEXT_COLUMN,
    TEXT_SPLIT,
    TEXT_TOKENS,
    Architecture,
    BaseSpec,
    IndexSettings,
    Layers,
    Normalization,
    SweepSpec,
    TrainSpec,
    first_fault,
    setting,
)
from sae.workspace.paths import typed_path

__all__ = [
    "PARTED", "SPECS", "ActivationsSpec", "Architecture", "CompareSpec", "EvaluateSpec", "ExplainSpec", "ImportSpec",
    "IndexSettings", "IndexSpec", "Normalization", "PartSpec", "SweepSpec", "TrainSpec", "as_text", "command_line",
    "demo_spec", "located", "n_parts", "parse_spec", "part_kind", "prefix_sizes"]


class IndexSpec(IndexSettings):
    """An index run for an existing SAE."""

    sae: str = setting(..., "The SAE, as <model>/<name>", group="what", pattern=r"^[^/]+/[^/]+$")
    text: str = setting("", "Text to read; empty: the text the SAE was trained on", group="what", max_length=4096)
    text_column: str = setting("text", TEXT_COLUMN, group="what")
    text_split: str = setting("train", TEXT_SPLIT, group="what")
    text_tokens: int = setting(
        0, "Text tokens read at most; 0: all of a file or directory, 20 million of a Hugging Face data set, or as for "
        "the training if the text is the same", group="what", unit="tokens", ge=0)
    device: str = setting("auto", DEVICES, group="stream", pattern=DEVICE)
    shards: int = setting(
        1, "Parts of the text that are read separately and then merged, on a cluster at the same time; the rows do not "
        "depend on it", group="stream", unit="parts", ge=1, le=1000,
        why="a lost node costs one part; a part of less than 65,536 tokens for each thread is not worth a process")


class PartSpec(BaseSpec):
    """One part of a run's work, for a process of its own."""

    run: str = setting(..., "The run", group="what", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    part: int = setting(..., "Number of the part, counted from 1", group="what", ge=1, le=1000)


class ActivationsSpec(BaseSpec):
    """A run that keeps activations of a text on disk, for several trainings on one pass of the language model."""

    name: str = setting(
        "", "Name of the kept activations; empty: made from the run's id", group="what", max_length=80,
        pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9._-]*$")
    model: str = setting(
        "demo", "Language model: 'demo' (embedded), a Hugging Face name, or a local directory", group="what",
        min_length=1, max_length=4096)
    text: str = setting(
        "stdlib", "Text: 'stdlib', a file or a directory of text or of rows, or a Hugging Face data set", group="what",
        min_length=1, max_length=4096)
    text_column: str = setting("text", TEXT_COLUMN, group="what")
    text_split: str = setting("train", TEXT_SPLIT, group="what")
    text_tokens: int = setting(0, TEXT_TOKENS, group="what", unit="tokens", ge=0)
    layers: Layers = setting((2,), "Blocks, separated by commas", group="what", min_length=1)
    site: Site = setting("hook_resid_post", "Site of each block", group="what")
    head: int = setting(-1, "Single head of q, k, v or z that is kept of the first site; -1: all of them", group="what",
                        ge=-1, le=4095)
    out_site: Literal["", Site] = setting("", "A second site of each block, for transcoders", group="what")
    context_length: int = setting(128, "Tokens per context, BOS included", group="what", unit="tokens", ge=8, le=8192)
    bos: bool = setting(True, "Whether every context begins with BOS", group="what")
    markup: bool = setting(False, MARKUP, group="what")
    tokens: int = setting(
        2_000_000, "Activations kept of each site, at most all of the text's training split", group="what",
        unit="tokens", ge=1_000, why="each takes two bytes for each coordinate of its site")
    device: str = setting("auto", DEVICES, group="stream", pattern=DEVICE)

    @property
    def hooks(self) -> list[str]:
        """Return the hook points that are kept."""
        sites = [(self.site, self.head), *([(self.out_site, -1)] if self.out_site else [])]
        return [site_hook(layer, site, head) for layer in self.layers for site, head in sites]

    @model_validator(mode="after")
    def _site(self) -> ActivationsSpec:
        if self.head >= 0 and self.site not in HEADS:
            raise ValueError(f"head: {self.site} has no heads; {', '.join(HEADS)} have")
        if any(self.layers) and EMBED in (self.site, self.out_site):
            raise ValueError(f"layers: {EMBED} comes before all blocks; give layer 0")
        return self


class CompareSpec(BaseSpec):
    """A comparison of two SAEs of one language model."""

    a: str = setting(..., "One SAE, as <model>/<name>", group="what", pattern=r"^[^/]+/[^/]+$")
    b: str = setting(..., "The other SAE, as <model>/<name>", group="what", pattern=r"^[^/]+/[^/]+$")
    compare_tokens: int = setting(
        100_000, "Text tokens on which both are read, to see which latents fire together", group="evaluation",
        unit="tokens", ge=1_000)
    device: str = setting("auto", DEVICES, group="stream", pattern=DEVICE)

    @model_validator(mode="after")
    def _two(self) -> CompareSpec:
        if self.a == self.b:
            raise ValueError("b: this is the same SAE as a; choose another one")
        return self


SPECS: dict[str, type[BaseSpec]] = {
    "train": TrainSpec, "sweep": SweepSpec, "index": IndexSpec, "evaluate": EvaluateSpec, "import": ImportSpec,
    "compare": CompareSpec, "explain": ExplainSpec, "index-part": PartSpec, "sweep-part": PartSpec,
    "evaluate-part": PartSpec, "explain-part": PartSpec, "activations": ActivationsSpec}

# The kinds of run whose work can be divided, and the setting that says into how many parts.
PARTED = {"index": "shards", "sweep": "parts", "evaluate": "shards", "explain": "shards"}

RunSpec = (
    TrainSpec | SweepSpec | IndexSpec | EvaluateSpec | ImportSpec | CompareSpec | ExplainSpec | PartSpec
    | ActivationsSpec)

POSITIONAL = {"import": "source"}  # the setting that a command takes without its name


def parse_spec(kind: str, values: dict[str, Any]) -> RunSpec:
    """Return the checked spec.  Raises UserError, whose `field` names the first setting at fault."""
    if kind not in SPECS:
        raise UserError(f"kind: {kind!r} is not one of {', '.join(SPECS)}", "kind")
    try:
        return SPECS[kind](**values)  # type: ignore[return-value]
    except ValidationError as error:
        field, text = first_fault(error, SPECS[kind])
        raise UserError(text, field) from None


def n_parts(kind: str, values: Mapping[str, Any]) -> int:
    """Return the number of parts that a run's settings ask for; 1 for a kind whose work is not divided."""
    return int(values.get(PARTED.get(kind, "")) or 1)


def part_kind(kind: str) -> str:
    """Return the kind of the runs that do the parts of a run of this kind."""
    return f"{kind}-part"


Spec = TypeVar("Spec", bound=BaseSpec)


def _existing(value: str) -> Path | None:
    try:
        path = typed_path(value, "path")
    except UserError:  # no file can have this name; the code that needs the file says so
        return None
    return path if path.exists() else None


def located(spec: Spec) -> Spec:
    """Return the spec with absolute paths of the local model and text, so that it means the same in every folder."""
    local = [("model", DEMO), ("text", STDLIB), ("source", ""), ("prompts", ""), ("embedding_model", ""),
             ("labels", "sae-probes")]
    if isinstance(spec, ExplainSpec) and not spec.is_local:  # the model is a name at an endpoint, not a folder
        local.remove(("model", DEMO))
    paths = {
        name: os.path.abspath(path) for name, default in local
        if (value := getattr(spec, name, "")) not in ("", default) and (path := _existing(value))}
    return spec.model_copy(update=paths)


def command_line(kind: str, values: Mapping[str, Any]) -> str:
    """Return the command that starts this run, with the settings that differ from their defaults."""
    words = ["saescope", kind]
    for name, info in SPECS[kind].model_fields.items():
        value = values.get(name, info.default)
        if value == info.default or value is PydanticUndefined:
            continue
        option = name.replace("_", "-")
        if name == POSITIONAL.get(kind):
            words.insert(2, shlex.quote(as_text(value)))
        elif isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", shlex.quote(as_text(value))]
    return " ".join(words)


def as_text(value: Any) -> str:
    """Return a setting as it is typed: the values of a list separated by commas."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def demo_spec() -> TrainSpec:
    """Return the run that an empty workspace starts automatically: about 80 seconds on two cores."""
    return TrainSpec(name="2-res-batchtopk-4k", tokens=1_200_000, reuse=3, eval_tokens=32_768, ce_tokens=8_192,
                     index_tokens=200_000)
