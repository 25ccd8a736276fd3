"""The settings of a reproduction, and the cells of its grid.  No torch."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError, model_validator

from sae.errors import UserError
from sae.specs.training import DEVICES, BaseSpec, Counts, Sizes, TrainSpec, first_fault, setting


class Cell(BaseSpec):
    """One dictionary of the grid, which is trained with every seed."""

    architecture: str
    n_latents: int
    k: int = 32  # decides the sparsity, except for `relu` and `gated`
    l1_coefficient: float = 0.12  # of `relu` and `gated`
    multi_topk: bool = False
    detailed: bool = False  # whether refinement and progressive recovery are measured too

    @property
    def kind(self) -> str:
        """Return the name of the architecture in tables and figures."""
        return "multi_topk" if self.multi_topk else self.architecture

    @property
    def label(self) -> str:
        """Return one line for people."""
        knob = f"λ = {self.l1_coefficient:g}" if self.architecture in ("relu", "gated") else f"k = {self.k}"
        return f"{self.kind}, L = {self.n_latents:,}, {knob}"


class Setup(BaseSpec):
    """The model, the text and the size of a reproduction."""

    model: str = setting("demo", "Language model: 'demo', a Hugging Face name, or a local directory", group="what",
                         min_length=1, max_length=4096)
    text: str = setting("stdlib", "Text: 'stdlib', a file or a directory, or a Hugging Face data set", group="what",
                        min_length=1, max_length=4096)
    text_tokens: int = setting(0, "Text tokens read at most; 0: all", group="what", ge=0)
    layer: int = setting(2, "Block whose output (resid_post) is read, counted from 0", group="what", ge=0)
    context_length: int = setting(128, "Tokens per context, BOS included", group="what", ge=8, le=8192)
    sizes: Sizes = setting((512, 1024, 2048), "Dictionary sizes, separated by commas", group="grid", min_length=1)
    size: int = setting(1024, "Dictionary size of the comparisons at several k", group="grid", ge=8, le=4_194_304)
    ks: Counts = setting((16, 32, 64), "Latents per token, separated by commas", group="grid", min_length=1)
    k: int = setting(32, "Latents per token of the comparisons at several sizes", group="grid", ge=1)
    seeds: int = setting(5, "Trainings of each SAE, with seeds from 0", group="grid", ge=1, le=30)
    tokens: int = setting(204_800, "Activations that each SAE is trained on", group="training", ge=1_000)
    batch_tokens: int = setting(512, "Activations per step", group="training", ge=16, le=1_048_576)
    eval_tokens: int = setting(40_000, "Held-out text tokens for θ, and the same number for the metrics",
                               group="evaluation", ge=1_000)
    ce_tokens: int = setting(8_192, "Held-out text tokens for ΔCE", group="evaluation", ge=256)
    device: str = setting("auto", DEVICES, group="stream", max_length=20)

    @model_validator(mode="after")
    def _fits(self) -> Setup:
        smallest = min(*self.sizes, self.size)
        if max(*self.ks, self.k) > smallest:
            raise ValueError(f"ks: {max(*self.ks, self.k)} latents per token, but a dictionary has only {smallest}")
        if self.tokens < self.batch_tokens:
            raise ValueError(f"tokens: {self.tokens} is less than one batch of {self.batch_tokens}")
        return self

    def spec(self, cell: Cell, seed: int) -> TrainSpec:
        """Return the settings of one training.  Raises UserError that names the setting at fault."""
        own = cell.model_dump(exclude={"detailed"})
        shared = self.model_dump(include={"model", "text", "text_tokens", "layer", "context_length", "tokens",
                                          "batch_tokens", "eval_tokens", "ce_tokens", "device"})
        return checked(TrainSpec, {**shared, **own, "seed": seed, "buffer_tokens": max(65_536, self.batch_tokens)})


Spec = TypeVar("Spec", bound=BaseSpec)


def checked(kind: type[Spec], values: dict[str, Any]) -> Spec:
    """Return the settings as an object.  Raises UserError, whose `field` names the first setting at fault."""
    try:
        return kind(**values)
    except ValidationError as error:
        field, text = first_fault(error, kind)
        raise UserError(text, field) from None
