"""What a run can be asked to do.  One source for the command line, the form and the docs.

Each field states what it is (`description`), its unit and why its default is what it is
(`json_schema_extra`: `unit`, `why`, `group`).  Contradictions are refused here, before
anything is loaded, with a message that names the field.  No torch.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticUndefined

from sae.errors import UserError
from sae.models import DEMO
from sae.texts import STDLIB

Normalization = Literal["none", "dataset", "layer_norm"]
Architecture = Literal["batch_topk", "topk", "matryoshka", "jumprelu", "gated", "relu"]
L0Penalty = Literal["target", "linear"]
BDecInit = Literal["geometric_median", "mean"]

_WITH_K = ("batch_topk", "topk", "matryoshka")  # architectures that keep k latents, exactly or on average
_RESAMPLED = ("relu", "gated")  # a dead latent of these is below zero everywhere, where AuxK finds no gradient


def _field(default: Any, description: str, *, group: str, why: str = "", unit: str = "", **limits: Any) -> Any:
    extra: dict[str, Any] = {"group": group, "why": why, "unit": unit}
    return Field(default, description=description, json_schema_extra=extra, **limits)


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def prefix_sizes(prefixes: str, n_latents: int) -> tuple[int, ...]:
    """The sizes of nested dictionaries, from shares ("1/4", "0.25") or numbers of latents.

    Raises ValueError, which names the field, unless they ascend strictly and end at `n_latents`.
    """
    sizes = []
    for word in filter(None, map(str.strip, prefixes.split(","))):
        try:
            number = Fraction(word)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"prefixes: {word!r} is neither a share nor a number of latents") from None
        share = word == "1" or "." in word or "/" in word
        sizes.append(int(number * n_latents) if share else int(number))
    if not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)) or sizes[-1] != n_latents:
        raise ValueError(f"prefixes: {', '.join(map(str, sizes)) or 'none'} should ascend and end at n_latents, "
                         f"{n_latents}")
    return tuple(sizes)


class IndexSettings(_Spec):
    """How a feature build is made: the same fields stand in a training run and in an index run."""

    index_tokens: int = _field(
        400_000, "Text tokens read to build the feature index", group="index", unit="tokens", ge=1_000,
        why="rarer latents need more text: at 400 k tokens a latent of density 1 in 10,000 fires 40 times")
    top_contexts: int = _field(
        20, "Strongest contexts kept per latent", group="index", ge=1, le=200,
        why="as many as the common dashboards show")
    band_contexts: int = _field(
        5, "Random contexts kept per latent from each quantile band of its firing activations",
        group="index", ge=0, le=100, why="four bands of five show whether the weak half means the same")


class TrainSpec(IndexSettings):
    """A training run: text ▸ activations ▸ training ▸ evaluation ▸ index."""

    name: str = _field(
        "", "Name of the SAE under its model, as in its address; empty: made from layer, kind and size",
        group="what", max_length=80)
    model: str = _field(
        "demo", "Language model: 'demo' (embedded), a Hugging Face name, or a local directory",
        group="what", min_length=1, max_length=4096, why="the embedded model needs no network")
    text: str = _field(
        "stdlib", "Text: 'stdlib' (this Python's standard library), a file, a directory, JSONL, "
        "Parquet, or a Hugging Face data set", group="what", min_length=1, max_length=4096,
        why="the embedded model was trained on Python source")
    text_column: str = _field("text", "Column that holds the text in JSONL, Parquet or a data set", group="what")
    text_split: str = _field("train", "Split of a Hugging Face data set", group="what")
    layer: int = _field(
        2, "Block whose output is explained (blocks.<layer>.hook_resid_post), counted from 0",
        group="what", ge=0, why="a middle layer: past the tokens, before the prediction")
    context_length: int = _field(
        128, "Tokens per context, BOS included", group="what", unit="tokens", ge=8, le=8192,
        why="the length used in the BatchTopK paper (appendix A.1)")

    architecture: Architecture = _field(
        "batch_topk", "How latents are selected: the k·B strongest of a batch (BatchTopK; Matryoshka, whose prefixes "
        "reconstruct by themselves), k on every token (TopK), or by thresholds learned with a penalty on L0 "
        "(JumpReLU), on L1 (ReLU), or on the L1 of a gate of its own (gated)",
        group="sae", why="tokens that need more latents get more")
    n_latents: int = _field(
        4096, "Latents in the dictionary (L)", group="sae", unit="latents", ge=8, le=4_194_304,
        why="16 times the demo model's width; 8 to 32 times is usual")
    k: int = _field(
        32, "Latents per token: exactly (TopK), on average (BatchTopK, Matryoshka), or aimed at (JumpReLU with the "
        "target penalty); ReLU and gated are steered by l1_coefficient instead", group="sae", unit="latents",
        ge=1, why="the paper's middle setting")
    multi_topk: bool = _field(
        False, "TopK and BatchTopK: add an eighth of the loss at 4k, so that the SAE stays good when it is read with "
        "more latents than k", group="sae", why="Gao et al. 2024, section 5.3.1; costs a little at k itself")
    prefixes: str = _field(
        "1/16, 1/8, 1/4, 1/2, 1", "Matryoshka: nested dictionaries, ascending, as shares of the latents or as numbers "
        "of latents; the last is all of them", group="sae", max_length=200,
        why="the fractions of the authors' code")
    l1_coefficient: float = _field(
        0.01, "ReLU and gated: weight of the mean sum of activations (of the gate's, if gated), in units of the "
        "data's standard deviation, beside FVU", group="sae", gt=0, le=100)
    l0_penalty: L0Penalty = _field(
        "target", "JumpReLU: (mean L0 / k − 1)² to aim at k latents per token, or mean L0 itself (linear)",
        group="sae", why="a linear penalty finds its own L0, and another for every model and size")
    l0_coefficient: float = _field(
        0.0, "JumpReLU: weight of the penalty beside FVU; 0: 1 for target, 0.002 for linear", group="sae", ge=0, le=100)
    bandwidth: float = _field(
        0.1, "JumpReLU: width of the window around θ in which θ feels a gradient, in units of normalised activations "
        "(a coordinate of the centred input has root mean square 1)", group="sae", gt=0, le=10)
    normalize: Normalization = _field(
        "layer_norm", "Input normalisation: none, one scale for the data set (folded into the weights), "
        "or per-token layer norm (kept as an attribute of the SAE)", group="sae")
    train_on_bos: bool = _field(
        True, "Whether the BOS position is among the training tokens", group="sae",
        why="as in the paper, whose histogram of latents per token shows BOS as a peak of its own")

    tokens: int = _field(
        2_000_000, "Activations trained on, repeats counted", group="training", unit="tokens", ge=1_000)
    batch_tokens: int = _field(
        2048, "Activations per step (B)", group="training", unit="tokens", ge=16, le=1_048_576)
    lr: float = _field(
        0.0, "Peak learning rate of Adam; 0: chosen from L and the number of steps", group="training", ge=0, le=1,
        why="2e-4·√(16384/L), the usual rule, times √(1 + 100,000/steps): short runs need more")
    warmup_steps: int = _field(
        50, "Steps over which the learning rate rises from 0", group="training", unit="steps", ge=0)
    decay_fraction: float = _field(
        0.3, "Share of the steps, at the end, over which the learning rate falls to 0",
        group="training", ge=0, le=1)
    k_aux: int = _field(
        0, "Dead latents used by the AuxK loss on each token; 0: half of d_model", group="training", ge=0)
    aux_alpha: float = _field(
        1 / 32, "Weight of the AuxK loss", group="training", ge=0, le=10, why="Gao et al. 2024, section 2.4")
    dead_after_tokens: int = _field(
        0, "A latent silent for so many tokens is dead; 0: a tenth of the run, 10 M at the most",
        group="training", unit="tokens", ge=0, why="10 M is the literature's; a short run never reaches it")
    sparsity_warmup: float = _field(
        0.1, "Share of the steps, at the beginning, over which the penalties on L0 and L1 rise from 0",
        group="training", ge=0, le=1)
    b_dec_init: BDecInit = _field(
        "geometric_median", "Where b_dec starts: the geometric median of the activations, or their mean",
        group="training", why="a few tokens with huge norms move the mean, not the median")
    resample_every: int = _field(
        0, "ReLU and gated: steps between two resamplings of dead latents, in the first half of the run; 0: none",
        group="training", unit="steps", ge=0, why="Bricken et al. 2023; AuxK cannot revive these, whose dead latents "
        "have no gradient at all")
    clip_norm: float = _field(1.0, "Largest norm of the gradient", group="training", gt=0)
    seed: int = _field(0, "Seed of everything random in the run", group="training", ge=0, lt=2**31)

    buffer_tokens: int = _field(
        262_144, "Activations held in memory and shuffled together; two such chunks are kept",
        group="stream", unit="tokens", ge=1_024, why="thousands of contexts are mixed in every batch")
    reuse: int = _field(
        1, "Times each harvested activation is trained on", group="stream", ge=1, le=100,
        why="more than 1 pays where the language model is the slower of the two")
    eval_tokens: int = _field(
        100_000, "Held-out text tokens for calibration of θ, and as many again for evaluation",
        group="evaluation", unit="tokens", ge=1_000)
    ce_tokens: int = _field(
        16_384, "Held-out text tokens for ΔCE, which takes four passes of the whole language model",
        group="evaluation", unit="tokens", ge=256)
    device: str = _field(
        "auto", "cpu, cuda, or auto (CUDA where there is one)", group="stream", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    index: bool = _field(True, "Build the feature index when training is done", group="index")

    @model_validator(mode="after")
    def _consistent(self) -> TrainSpec:
        aims_at_k = self.architecture in _WITH_K or (self.architecture == "jumprelu" and self.l0_penalty == "target")
        if aims_at_k and self.k > self.n_latents:
            raise ValueError(f"k: {self.k} latents per token, but n_latents is {self.n_latents}")
        if self.multi_topk and self.architecture not in ("topk", "batch_topk"):
            raise ValueError(f"multi_topk: is for topk and batch_topk, not for {self.architecture}")
        if self.multi_topk and 4 * self.k > self.n_latents:
            raise ValueError(f"multi_topk: 4k is {4 * self.k}, but n_latents is {self.n_latents}")
        if self.resample_every and self.architecture not in _RESAMPLED:
            raise ValueError(f"resample_every: is for {' and '.join(_RESAMPLED)}; AuxK revives the dead latents of "
                             f"{self.architecture}")
        if self.architecture == "matryoshka":
            prefix_sizes(self.prefixes, self.n_latents)
        if self.k_aux > self.n_latents:
            raise ValueError(f"k_aux: {self.k_aux} is more than n_latents, {self.n_latents}")
        if self.tokens < self.batch_tokens:
            raise ValueError(f"tokens: {self.tokens} is less than one batch of {self.batch_tokens}")
        if self.buffer_tokens < self.batch_tokens:
            raise ValueError(f"buffer_tokens: {self.buffer_tokens} is less than batch_tokens, {self.batch_tokens}")
        return self


class IndexSpec(IndexSettings):
    """An index run for an SAE that exists."""

    sae: str = _field(..., "The SAE, as <model>/<name>", group="what", pattern=r"^[^/]+/[^/]+$")
    text: str = _field("", "Text to read; empty: the text the SAE was trained on", group="what", max_length=4096)
    text_column: str = _field("text", "Column that holds the text", group="what")
    text_split: str = _field("train", "Split of a Hugging Face data set", group="what")
    device: str = _field("auto", "cpu, cuda, or auto", group="stream", pattern=r"^(auto|cpu|cuda(:\d+)?)$")


class EvaluateSpec(_Spec):
    """An evaluation of an SAE that exists, on held-out text."""

    sae: str = _field(..., "The SAE, as <model>/<name>", group="what", pattern=r"^[^/]+/[^/]+$")
    eval_tokens: int = _field(100_000, "Held-out text tokens", group="evaluation", unit="tokens", ge=1_000)
    ce_tokens: int = _field(16_384, "Held-out text tokens for ΔCE", group="evaluation", unit="tokens", ge=256)
    device: str = _field("auto", "cpu, cuda, or auto", group="stream", pattern=r"^(auto|cpu|cuda(:\d+)?)$")


SPECS: dict[str, type[_Spec]] = {"train": TrainSpec, "index": IndexSpec, "evaluate": EvaluateSpec}


def parse_spec(kind: str, values: dict[str, Any]) -> TrainSpec | IndexSpec | EvaluateSpec:
    """The checked spec.  Raises UserError, whose `field` names the first setting at fault."""
    if kind not in SPECS:
        raise UserError(f"kind: {kind!r} is not one of {', '.join(SPECS)}", "kind")
    try:
        return SPECS[kind](**values)  # type: ignore[return-value]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        field = str(first["loc"][0]) if first["loc"] else message.partition(":")[0]
        text = message if not first["loc"] else f"{field}: {message}"
        raise UserError(text, field) from None


Spec = TypeVar("Spec", bound=_Spec)


def located(spec: Spec) -> Spec:
    """The spec with the local model and text named from the root, so that it means the same in every folder."""
    paths = {
        name: os.path.abspath(Path(value).expanduser()) for name, usual in (("model", DEMO), ("text", STDLIB))
        if (value := getattr(spec, name, "")) not in ("", usual) and Path(value).expanduser().exists()}
    return spec.model_copy(update=paths)


def command_line(kind: str, values: Mapping[str, Any]) -> str:
    """The command that does this: the settings that differ from their defaults."""
    words = ["saescope", kind]
    for name, info in SPECS[kind].model_fields.items():
        value = values.get(name, info.default)
        if value == info.default or value is PydanticUndefined:
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", shlex.quote(str(value))]
    return " ".join(words)


def demo_spec() -> TrainSpec:
    """The run that an empty workspace starts by itself: about two minutes on two cores."""
    return TrainSpec(name="2-res-batchtopk-4k", tokens=2_000_000, reuse=3, eval_tokens=50_000, ce_tokens=8_192,
                     index_tokens=250_000)
