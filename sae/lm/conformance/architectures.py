"""The conformance check over every causal architecture, by tiny random models, and its table."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.conformance.check import check
from sae.lm.conformance.report import SINGLE_HEADS, Report
from sae.lm.conformance.tiny_models import causal_architectures, write_tiny_model
from sae.lm.sites import KINDS

_HEAD = """# Models

This table is made by `python -m sae.lm.conformance docs/models.md` with transformers {transformers},
transformer_lens {transformer_lens} and torch {torch}.  For every causal architecture that transformers and
transformer_lens both know, it makes a tiny model with random weights, gains and biases.  Then it compares what
saescope computes with the plain Hugging Face model: activations at every site, an edit of every site, the
logits that directions add, and reading token by token past attention windows.  `saescope check MODEL` does the
same with your model.

- A site that is not listed is refused by name, before anything is trained or steered.
- "fast" means that many texts are written together.  "one by one" means that each text is written by itself, with
  the model's own attention and cache.  "whole text" means that every new token reads the whole text again.
- "some blocks" names sites that only a part of the blocks has, in models with blocks of several kinds.

| architecture | writes text | sites in all blocks | in some blocks |
|---|---|---|---|
"""
_WAYS = {"fast": "fast", "cached": "one by one", "whole": "whole text"}


def check_tiny(architecture: str, folder: Path) -> Report:
    """Write a tiny random model of an architecture into `folder`, load it and check it."""
    write_tiny_model(architecture, folder)
    try:
        lm = LanguageModel.load(str(folder), "cpu")
    except UserError as error:
        return Report(str(folder), architecture, error=str(error))
    return check(lm)


def table() -> str:
    """Return the Markdown table of all architectures."""
    lines = [_HEAD.format(**{name: version(name) for name in ("transformers", "transformer_lens", "torch")})]
    for architecture in causal_architectures():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            try:
                report = check_tiny(architecture, path)
            except ImportError as error:  # of a library that this one architecture asks for
                reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
                report = Report(str(path), architecture, error=f"model: not made here: {reason}")
            lines.append(_line(report, str(path)))
    return "".join(lines)


def _line(report: Report, path: str) -> str:
    if report.error:
        reason = report.error.removeprefix("model: ").replace(path, "it").removeprefix("it ")
        return f"| {report.architecture} | – | refused: {_cell(reason)} | |\n"
    statuses = {row.subject: row for row in report.rows}
    kinds = [*KINDS, SINGLE_HEADS]
    everywhere = [kind for kind in kinds if statuses[kind].status == "holds"]
    somewhere = [kind for kind in kinds if statuses[kind].detail.startswith("in ")]
    whole = "all" if len(everywhere) == len(kinds) else _names(everywhere)
    return f"| {report.architecture} | {_WAYS[report.way]} | {whole} | {_names(somewhere)} |\n"


def _names(kinds: list[str]) -> str:
    return ", ".join(kind if kind == SINGLE_HEADS else f"`{kind}`" for kind in kinds)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
