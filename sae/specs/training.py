"""The settings of training: one SAE, or a sweep of them.  No torch.

Contradictions are rejected here, before anything is loaded, with a message that names the field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sae.faults import DEVICE, faults
from sae.lm.sites import Kind as Site
from sae.lm.sites import site_hook
from sae.specs.contradictions import contradictions
from sae.store.records import NEAR

DEVICES = "cpu, cuda, mps (Apple), or auto (the first of cuda, mps and cpu that there is)"
Normalization = Literal["none", "dataset", "layer_norm"]
Architecture = Literal["batch_topk", "topk", "matryoshka", "jumprelu", "gated", "relu"]
L0Penalty = Literal["target", "linear"]
BDecInit = Literal["geometric_median", "mean"]
BufferDtype = Literal["bfloat16", "float16", "float32"]

TEXT_COLUMN = ("Column that holds the documents of a file of rows or of a data set: text, a chat (a list of messages), "
               "or token ids")
TEXT_SPLIT = "Split of a Hugging Face data set, or of a folder whose files are named after splits"
TEXT_TOKENS = "Text tokens read at most; 0: all of a file or directory, 20 million of a Hugging Face data set"

MARKUP = ("Whether special tokens that are spelled in a text, such as <|im_start|>, are read as these tokens; else "
          "they are plain characters. Inspection and steering read texts in the same way")

_WITH_L1 = ("relu", "gated")
_MAX_MEMBERS = 256


def setting(default: Any, description: str, *, group: str, why: str = "", unit: str = "", **limits: Any) -> Any:
    """Return a field of a spec with its meaning, its unit, the reason for its default, and its group in a form."""
    extra: dict[str, Any] = {"group": group, "why": why, "unit": unit}
    return Field(default, description=description, json_schema_extra=extra, **limits)


class BaseSpec(BaseModel):
    """Base of all specs: unknown settings are rejected, and a spec never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class IndexSettings(BaseSpec):
    """The settings of a build, shared by training runs and index runs."""

    index_tokens: int = setting(
        400_000, "Text tokens read to build the index", group="index", unit="tokens", ge=1_000,
        why="rarer latents need more text: at 400 k tokens a latent of density 1 in 10,000 fires 40 times")
    top_contexts: int = setting(
        20, "Strongest contexts kept per latent", group="index", ge=1, le=200,
        why="as many as the common dashboards show")
    band_contexts: int = setting(
        5, "Random contexts kept per latent from each quantile band of its firing activations",
        group="index", ge=0, le=100, why="four bands of five show whether the weak half means the same")
    near_misses: int = setting(
        3, f"Near misses kept per latent: contexts in which it is silent, but within {NEAR:.0%} of firing; 0: none",
        group="index", ge=0, le=100, why="they show what separates its firings from very similar text")
    skip_norm: float = setting(
        0.0, "Leave out tokens whose activations are longer than this multiple of the median norm; 0: none, or for an "
        "existing SAE as in its training", group="index", ge=0, le=1e6,
        why="attention sinks beyond BOS can be hundreds of times longer than other tokens; 10 finds them")
    skip_tokens: str = setting(
        "", "Ids of tokens to leave out, separated by commas; empty: none, or for an existing SAE as in its training",
        group="index", max_length=10_000, pattern=r"^[\d, ]*$")
    map: Literal["pca", "umap"] = setting(
        "pca", "Map of the decoder rows: their two first principal components, or UMAP of their cosine distances "
        "(needs the extra `umap`)", group="index",
        why="principal components take no time; UMAP takes seconds to minutes and shows clusters")

    @model_validator(mode="after")
    def _norms(self) -> Self:
        if 0 < self.skip_norm < 2:
            raise ValueError(f"skip_norm: {self.skip_norm:g} times the median norm would leave out ordinary tokens; "
                             "give 2 or more, or 0")
        return self


class _Subject(BaseSpec):
    """The subject of training: a site of a model on a text."""

    name: str = setting(
        "", "Name of the SAE under its model, as in its address; empty: made from layer, kind and size",
        group="what", max_length=80)
    model: str = setting(
        "demo", "Language model: 'demo' (embedded), a Hugging Face name, or a local directory",
        group="what", min_length=1, max_length=4096, why="the embedded model needs no network")
    text: str = setting(
        "stdlib", "Text: 'stdlib' (this Python's standard library), a file or a directory of text or of rows (JSONL, "
        "JSON, CSV, Parquet, Arrow), or a Hugging Face data set", group="what", min_length=1, max_length=4096,
        why="the embedded model was trained on Python source")
    text_column: str = setting("text", TEXT_COLUMN, group="what")
    text_split: str = setting("train", TEXT_SPLIT, group="what")
    text_tokens: int = setting(0, TEXT_TOKENS, group="what", unit="tokens", ge=0)
    layer: int = setting(
        2, "Block, counted from 0", group="what", ge=0,
        why="a middle layer, between the tokens and the prediction")
    site: Site = setting(
        "hook_resid_post", "Site of the block at which activations are read (blocks.<layer>.<site>): the residual "
        "stream entering (pre), between (mid) or leaving it (post), the attention's input (ln1), queries, keys and "
        "values (q, k, v), the heads (z), the output of attention or of the MLP (out), the MLP's input or its hidden "
        "activations (post); or the token embedding (hook_embed, with layer 0)", group="what")
    head: int = setting(
        -1, "Single head of queries, keys, values or heads (q, k, v, z) that is read, counted from 0; -1: all of them",
        group="what", ge=-1, le=4095)
    out_site: Literal["", Site] = setting(
        "", "Site of the block that a transcoder reconstructs, for example hook_mlp_out from ln2.hook_normalized; "
        "empty: the site that is read", group="what",
        why="for batch_topk, topk and matryoshka")
    markup: bool = setting(False, MARKUP, group="what", why="columns of messages always go through the template")
    context_length: int = setting(
        128, "Tokens per context, BOS included", group="what", unit="tokens", ge=8, le=8192,
        why="the length used in the BatchTopK paper (appendix A.1)")
    bos: bool = setting(
        True, "Whether every context begins with BOS", group="what", why="most models were trained so")

    @property
    def hook(self) -> str:
        """Return the hook point that is read."""
        return site_hook(self.layer, self.site, self.head)

    @property
    def out_hook(self) -> str:
        """Return the hook point that a transcoder reconstructs; empty for an SAE."""
        return site_hook(self.layer, self.out_site) if self.out_site else ""


class _SingleDictionary(BaseSpec):
    """The settings of one dictionary."""

    architecture: Architecture = setting(
        "batch_topk", "How latents are selected: the k·B strongest of a batch (BatchTopK; Matryoshka, whose prefixes "
        "reconstruct on their own), k on every token (TopK), or by thresholds learned with a penalty on L0 "
        "(JumpReLU), on L1 (ReLU), or on the L1 of a separate gate (gated)",
        group="sae", why="tokens that need more latents get more")
    n_latents: int = setting(
        4096, "Latents in the dictionary (L)", group="sae", unit="latents", ge=8, le=4_194_304,
        why="16 times the demo model's width; 8 to 32 times is usual")
    k: int = setting(
        32, "Latents per token: exactly (TopK), on average (BatchTopK, Matryoshka), or aimed at (JumpReLU with the "
        "target penalty); for ReLU and gated, l1_coefficient decides instead", group="sae", unit="latents",
        ge=1, why="the paper's middle setting")
    l1_coefficient: float = setting(
        0.12, "ReLU and gated: weight of the mean sum of activations (of the gate's, if gated), in units of the "
        "data's standard deviation, relative to FVU", group="sae", gt=0, le=100)


def listed(value: Any) -> Any:
    """Split a string at its commas into a list, with each value once."""
    if isinstance(value, str):
        value = [word for word in map(str.strip, value.split(",")) if word]
    return list(dict.fromkeys(value)) if isinstance(value, list | tuple) else [value]


_Architectures = Annotated[tuple[Architecture, ...], BeforeValidator(listed)]
Sizes = Annotated[tuple[Annotated[int, Field(ge=8, le=4_194_304)], ...], BeforeValidator(listed)]
Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(listed)]
_Coefficients = Annotated[tuple[Annotated[float, Field(gt=0, le=100)], ...], BeforeValidator(listed)]


class _DictionaryGrid(BaseSpec):
    """The settings of a grid of dictionaries."""

    architecture: _Architectures = setting(
        ("batch_topk", "topk"), "Architectures, separated by commas: batch_topk, topk, matryoshka, jumprelu, gated, "
        "relu", group="sae", min_length=1, why="two architectures show a trade-off")
    n_latents: Sizes = setting(
        (2048, 4096), "Dictionary sizes (L), separated by commas", group="sae", unit="latents", min_length=1)
    k: Counts = setting(
        (16, 32, 64), "Latents per token, separated by commas; for architectures with a k", group="sae",
        unit="latents", min_length=1, why="the paper's three settings")
    l1_coefficient: _Coefficients = setting(
        (0.12,), "ReLU and gated, instead of k: weights of the mean sum of activations, separated by commas",
        group="sae", min_length=1)


Layers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(listed)]


class _SharedSettings(BaseSpec):
    """The settings that all dictionaries of a run share: rules, training, stream, evaluation."""

    gate_weight: float = setting(
        0.25, "Gated: weight of the gate's loss (L1 and reconstruction by the gate) relative to FVU", group="rule",
        gt=0, le=10, why="the paper uses 1, which left FVU 2 to 4% higher at equal L0 in short runs")
    multi_topk: bool = setting(
        False, "TopK and BatchTopK: add an eighth of the loss at 4k, so that the SAE stays good if more than k latents "
        "are kept", group="rule", why="Gao et al. 2024, section 5.3.1; it costs a little at k itself")
    prefixes: str = setting(
        "1/16, 1/8, 1/4, 1/2, 1", "Matryoshka: nested dictionaries, ascending, as shares of the latents or as numbers "
        "of latents; the last is all of them", group="rule", max_length=200,
        why="the fractions of the authors' code")
    l0_penalty: L0Penalty = setting(
        "target", "JumpReLU: (mean L0 / k − 1)² to aim at k latents per token, or mean L0 itself (linear)",
        group="rule", why="the L0 that a linear penalty leads to differs for every model and size")
    l0_coefficient: float = setting(
        0.0, "JumpReLU: weight of the penalty relative to FVU; 0: 1 for target, 0.002 for linear", group="rule", ge=0,
        le=100)
    bandwidth: float = setting(
        0.3, "JumpReLU: width of the window around θ in which θ has a gradient, in units of normalised activations "
        "(a coordinate of the centred input has root mean square 1)", group="rule", gt=0, le=10)
    normalize: Normalization = setting(
        "layer_norm", "Input normalisation: none, one scale for the data set (folded into the weights), "
        "or per-token layer norm (kept as an attribute of the SAE)", group="sae")
    train_on_bos: bool = setting(
        True, "Whether the first position of a context, which is BOS if contexts begin with it, is among the training "
        "tokens", group="sae",
        why="as in the paper, whose histogram of latents per token shows BOS as a separate peak")

    tokens: int = setting(
        2_000_000, "Activations trained on, repeats counted", group="training", unit="tokens", ge=1_000)
    batch_tokens: int = setting(
        2048, "Activations per step (B)", group="training", unit="tokens", ge=16, le=1_048_576)
    lr: float = setting(
        0.0, "Peak learning rate of Adam; 0: chosen from L and the number of steps", group="training", ge=0, le=1,
        why="2e-4·√(16384/L), the usual rule, times √(1 + 100,000/steps): short runs need more")
    warmup_steps: int = setting(
        100, "Steps over which the learning rate rises from 0, at most a fifth of the run", group="training",
        unit="steps", ge=0, why="a slow start leaves fewer latents dead")
    decay_fraction: float = setting(
        0.5, "Share of the steps, at the end, over which the learning rate falls to 0",
        group="training", ge=0, le=1, why="a longer fall leaves fewer latents dead in short runs")
    k_aux: int = setting(
        0, "Dead latents used by the AuxK loss on each token; 0: half of d_model", group="training", ge=0)
    aux_alpha: float = setting(
        1 / 32, "Weight of the AuxK loss", group="training", ge=0, le=10, why="Gao et al. 2024, section 2.4")
    dead_after_tokens: int = setting(
        0, "Tokens of silence after which a latent is dead; 0: a fiftieth of the run, at most 10 M",
        group="training", unit="tokens", ge=0, why="10 M is usual in the literature; a short run never reaches it")
    sparsity_warmup: float = setting(
        0.2, "Share of the steps, at the beginning, over which the penalties on L0 and L1 rise from 0",
        group="rule", ge=0, le=1)
    b_dec_init: BDecInit = setting(
        "geometric_median", "Start value of b_dec: the geometric median of the activations, or their mean",
        group="training", why="a few tokens with huge norms move the mean, not the median")
    resample_every: int = setting(
        0, "ReLU and gated: steps between two resamplings of dead latents, in the first half of the run; 0: none",
        group="rule", unit="steps", ge=0, why="Bricken et al. 2023; AuxK cannot revive dead latents here, because "
        "they have no gradient at all")
    clip_norm: float = setting(
        0.01, "Largest norm of the gradient of the loss, which is in units of FVU", group="training", gt=0,
        why="Adam remembers large gradients of the first steps, which would slow it down")
    shards: int = setting(
        1, "Processes that share the latents of one SAE; the other processes of torchrun divide the tokens among them",
        group="training", unit="processes", ge=1, le=4096,
        why="data parallelism alone is faster until an SAE and Adam's state no longer fit into one GPU")
    seed: int = setting(0, "Seed of everything random in the run", group="training", ge=0, lt=2**31)

    activations: str = setting(
        "", "Kept activations to train on, by their name; empty: the language model computes them during the training",
        group="stream", max_length=80, why="several runs on the same text then need the language model only once")
    buffer_tokens: int = setting(
        262_144, "Activations kept in memory and shuffled together; the same number is gathered in the meantime",
        group="stream", unit="tokens", ge=1_024, why="thousands of contexts are mixed in every batch")
    buffer_dtype: BufferDtype = setting(
        "bfloat16", "Number format of activations in memory; with bfloat16 the language model computes in it, too",
        group="stream", why="half the memory of float32 with the same range; float16 is finer, up to 65,504")
    reuse: int = setting(
        1, "Number of times that each harvested activation is trained on", group="stream", ge=1, le=100,
        why="more than 1 pays if the language model is slower than the SAE")
    eval_tokens: int = setting(
        100_000, "Held-out text tokens for calibration of θ, and the same number for evaluation",
        group="evaluation", unit="tokens", ge=1_000)
    ce_tokens: int = setting(
        16_384, "Held-out text tokens for ΔCE, which takes four passes of the whole language model",
        group="evaluation", unit="tokens", ge=256)
    device: str = setting(
        "auto", DEVICES, group="stream", pattern=DEVICE)
    index: bool = setting(True, "Build the index when training is done", group="index")


class TrainSpec(_SharedSettings, _SingleDictionary, _Subject, IndexSettings):
    """A training run: text ▸ activations ▸ training ▸ evaluation ▸ index."""

    def members(self) -> list[TrainSpec]:
        """Return the SAEs of the run: this one."""
        return [self]

    @property
    def all_layers(self) -> tuple[int, ...]:
        """Return the blocks whose sites are read."""
        return (self.layer,)

    @model_validator(mode="after")
    def _consistent(self) -> TrainSpec:
        for field, message in contradictions(self):
            raise ValueError(f"{field}: {message}")
        return self


class SweepSpec(_SharedSettings, _DictionaryGrid, _Subject, IndexSettings):
    """A sweep: every architecture with every size and every k, trained on one pass of activations.

    With several layers, each layer gets the whole grid.  The activations of all layers are then kept on the disk
    during the run, so that the language model still makes a single pass.
    """

    layers: Layers = setting(
        (), "Blocks, separated by commas, each of which gets the whole grid; empty: the block `layer` alone",
        group="what", why="an SAE for every layer costs one pass of the language model")
    parts: int = setting(
        1, "Parts of the grid that are trained separately, on a cluster at the same time; the SAEs do not depend on it",
        group="stream", unit="parts", ge=1, le=256,
        why="a lost node costs one part, but each part needs a pass of the language model")

    @property
    def all_layers(self) -> tuple[int, ...]:
        """Return the blocks whose sites are read."""
        return self.layers or (self.layer,)

    def members(self) -> list[TrainSpec]:
        """Return the SAEs of the run, each as the spec of a separate training run without a name."""
        own = {"name", "architecture", "n_latents", "k", "l1_coefficient", "layers", "parts"}
        shared = self.model_dump(exclude=own)
        return [
            TrainSpec(**{**shared, "layer": layer, "architecture": architecture, "n_latents": n_latents, knob: value})
            for layer in self.all_layers for architecture in self.architecture for n_latents in self.n_latents
            for knob, value in self._knobs(architecture)]

    def _knobs(self, architecture: str) -> list[tuple[str, float]]:
        """Return the setting that decides the sparsity of an architecture, with every value asked for."""
        if architecture in _WITH_L1:
            return [("l1_coefficient", value) for value in self.l1_coefficient]
        if architecture == "jumprelu" and self.l0_penalty == "linear":
            return [("l0_coefficient", self.l0_coefficient)]
        return [("k", value) for value in self.k]

    @model_validator(mode="after")
    def _consistent(self) -> SweepSpec:
        n = len(self.all_layers) * sum(
            len(self.n_latents) * len(self._knobs(architecture)) for architecture in self.architecture)
        if n > _MAX_MEMBERS:
            raise ValueError(f"architecture: this sweep has {n} SAEs; at most {_MAX_MEMBERS} are allowed")
        if self.parts > n:
            raise ValueError(f"parts: this sweep has {n} SAE{'s' if n > 1 else ''}, so there are at most as many parts")
        try:
            self.members()
        except ValidationError as error:  # one line, and the field that all of them share
            raise ValueError(first_fault(error, TrainSpec)[1]) from None
        return self


def first_fault(error: ValidationError, model: type[BaseModel]) -> tuple[str, str]:
    """Return the first setting at fault, and the message that begins with its name."""
    first = faults(error, model)[0]
    if not first.path:  # a rule about several settings, whose message names the one at fault
        return first.words.partition(":")[0], first.words
    return str(first.path[0]), f"{first.path[0]}: {first.words}"
