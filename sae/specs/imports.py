"""The settings of an import: one source for the command line, the form and the checks.  No torch."""

from __future__ import annotations

from typing import Literal

from sae.faults import DEVICE
from sae.specs.training import DEVICES, MARKUP, TEXT_COLUMN, TEXT_SPLIT, TEXT_TOKENS, IndexSettings, setting

YesNo = Literal["", "yes", "no"]


class ImportSpec(IndexSettings):
    """An import of an SAE made by another program: its format is detected, and it is checked on real activations."""

    source: str = setting(
        ..., "Location of the SAE: a folder, a file, a zip of a folder, or owner/repo or owner/repo/folder on the "
        "Hugging Face hub",
        group="what", min_length=1, max_length=4096)
    name: str = setting(
        "", "Name of the SAE under its model, as in its address; empty: made from layer, kind and size",
        group="what", max_length=80)
    model: str = setting(
        "", "Language model it was trained on; empty: the one named in the file", group="what", max_length=4096)
    hook: str = setting(
        "", "Hook point that it reads, e.g. blocks.6.hook_resid_post; empty: the one named in the file",
        group="what", max_length=200)
    out_hook: str = setting(
        "", "Hook point that a transcoder reconstructs; empty: the one named in the file", group="what",
        max_length=200)
    bos: YesNo = setting(
        "", "Whether it was trained on contexts that begin with BOS; empty: what the file says", group="what")
    context_length: int = setting(
        0, "Tokens per context, BOS included; 0: what the file says, else 128", group="what", unit="tokens",
        ge=0, le=8192)

    architecture: Literal["", "relu", "topk", "batch_topk"] = setting(
        "", "How latents are selected, for a bare file of tensors; empty: what the file says", group="sae")
    k: int = setting(0, "Latents per token, for a bare file of tensors; 0: what the file says", group="sae", ge=0,
                     le=4_194_304)
    threshold: float = setting(
        0.0, "Threshold of a BatchTopK file that has none; 0: what the file says, else calibrated until the mean L0 "
        "is k", group="sae", ge=0)
    subtract_b_dec: YesNo = setting(
        "", "Whether b_dec is subtracted from the input; empty: what the format says", group="sae")
    normalize: Literal["", "none", "layer_norm", "layer_norm_std", "constant_norm", "centre"] = setting(
        "", "Normalisation of each token's input; empty: what the format says", group="sae",
        why="layer_norm_std is undone with the standard deviation alone; centre subtracts the mean, as centred "
            "writing weights do")
    input_scale: float = setting(
        0.0, "Factor by which its training multiplied activations; 0: what the file says", group="sae", ge=0)

    text: str = setting(
        "stdlib", "Text to check it on and to index: 'stdlib' (this Python's standard library), a file or a directory "
        "of text or of rows (JSONL, JSON, CSV, Parquet, Arrow), or a Hugging Face data set", group="evaluation",
        min_length=1, max_length=4096)
    text_column: str = setting("text", TEXT_COLUMN, group="evaluation")
    text_split: str = setting("train", TEXT_SPLIT, group="evaluation")
    text_tokens: int = setting(0, TEXT_TOKENS, group="evaluation", unit="tokens", ge=0)
    markup: bool = setting(False, MARKUP, group="evaluation")
    check_tokens: int = setting(
        8_192, "Text tokens on which FVU, L0 and the mean activation are measured", group="evaluation", unit="tokens",
        ge=256, le=1_000_000, why="enough to recognise a transposed or wrongly normalised SAE")
    force: bool = setting(False, "Import it even if the check says that it does not reconstruct", group="evaluation")
    device: str = setting("auto", DEVICES, group="stream", pattern=DEVICE)
    index: bool = setting(True, "Build the index after the import", group="index")
