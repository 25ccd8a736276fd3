"""The command `saescope reproduce`: a paper's grid trained and measured here, and its claims checked."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sae.workspace.paths import Workspace


def reproduce_command(
    paper: Annotated[str, typer.Argument(metavar="PAPER", help="batchtopk or topk-scaling")],
    model: Annotated[str | None, typer.Option(help="'demo', a Hugging Face name, or a local directory")] = None,
    text: Annotated[str | None, typer.Option(help="'stdlib', a file or directory, or a Hugging Face data set")] = None,
    text_tokens: Annotated[int | None, typer.Option(help="Text tokens read at most; 0: all")] = None,
    layer: Annotated[int | None, typer.Option(help="Block whose output is read, counted from 0")] = None,
    context_length: Annotated[int | None, typer.Option(help="Tokens per context, BOS included")] = None,
    sizes: Annotated[str | None, typer.Option(help="Dictionary sizes, separated by commas")] = None,
    size: Annotated[int | None, typer.Option(help="Dictionary size of the comparisons at several k")] = None,
    ks: Annotated[str | None, typer.Option(help="Latents per token, separated by commas")] = None,
    k: Annotated[int | None, typer.Option(help="Latents per token of the comparisons at several sizes")] = None,
    seeds: Annotated[int | None, typer.Option(help="Trainings of each SAE; more can be added later")] = None,
    tokens: Annotated[int | None, typer.Option(help="Activations that each SAE is trained on")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Activations per step")] = None,
    eval_tokens: Annotated[int | None, typer.Option(help="Held-out text tokens of the metrics")] = None,
    ce_tokens: Annotated[int | None, typer.Option(help="Held-out text tokens of ΔCE")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda[:n], mps or auto")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; default: reproduce/PAPER in the workspace")
                   ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A grid of seconds to minutes, as a check")] = False,
) -> None:
    """Train a paper's grid of SAEs on a model, and write a report of its claims and figures (HTML and JSON).

    A command that was stopped goes on where it was when it is given again.
    """
    from sae.reproduce.run import reproduce

    values = {name: value for name, value in {
        "model": model, "text": text, "text_tokens": text_tokens, "layer": layer, "context_length": context_length,
        "sizes": sizes, "size": size, "ks": ks, "k": k, "seeds": seeds, "tokens": tokens,
        "batch_tokens": batch_tokens, "eval_tokens": eval_tokens, "ce_tokens": ce_tokens, "device": device,
    }.items() if value is not None}
    words = ["saescope", "reproduce", paper, *(["--quick"] if quick else [])]
    for name, value in values.items():
        words += [f"--{name.replace('_', '-')}", shlex.quote(str(value))]
    workspace, console = Workspace.from_environment(), Console()
    folder = out or workspace.root / "reproduce" / (f"{paper}-quick" if quick else paper)
    page, data = reproduce(
        paper, values, workspace, folder, lambda line: console.print(line, highlight=False, soft_wrap=True),
        " ".join(words), quick=quick)
    console.print(f"{page}\n{data}", highlight=False, soft_wrap=True)
