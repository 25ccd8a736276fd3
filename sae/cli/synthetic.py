"""The command `saescope synthetic`: all architectures in a world whose true features are known."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sae.errors import UserError
from sae.evaluation.published import write_published
from sae.evaluation.synthetic.kept import results
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace


def synthetic_command(
    profile: Annotated[str, typer.Option(help="small (a minute on two cores) or full (hours on a GPU)")] = "small",
    architectures: Annotated[str, typer.Option(
        help="Architectures, separated by commas")] = "batch_topk,topk,matryoshka,jumprelu,gated,relu",
    seeds: Annotated[int, typer.Option(help="Trainings of each architecture", min=1, max=30)] = 1,
    tokens: Annotated[int | None, typer.Option(help="Samples to train on; default: the profile's")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda[:n], mps or auto")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Write all scores to this JSON file")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the scores, so that the page /synthetic-PROFILE has them")
                    ] = False,
) -> None:
    """Train every architecture on activations made of known features, and score how well it finds them."""
    from dataclasses import asdict, replace

    from sae.evaluation.synthetic.benchmark import PROFILES, run, summary
    from sae.lm.bridge import pick_device

    if profile not in PROFILES:
        raise UserError(f"profile: {profile!r} is not one of {', '.join(PROFILES)}", "profile")
    chosen = PROFILES[profile]
    if tokens is not None:
        if tokens < 10 * chosen.batch_tokens:
            raise UserError(f"tokens: give at least {10 * chosen.batch_tokens:,}, ten steps", "tokens")
        chosen = replace(chosen, tokens=tokens)
    console, started = Console(), time.monotonic()
    said: dict[str, float] = {}

    def progress(phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - said.get(phase, -10.0) >= 10.0:
            said[phase] = now
            console.print(f"{phase}: {done / total:.0%}", highlight=False)

    names = [name for name in map(str.strip, architectures.split(",")) if name]
    rows = run(chosen, names, seeds, pick_device(device), progress)
    lines = summary(rows)
    console.print(_table(lines, chosen.published))
    console.print(f"{time.monotonic() - started:.0f} s", highlight=False)
    if keep:
        workspace = Workspace.from_environment()
        for result in results(profile, rows, chosen.published, chosen.n_latents, chosen.k):
            write_published(workspace, result)
        console.print(f"the page /synthetic-{profile} has these scores in a table and a plot", highlight=False)
    if out:
        write_json(out, {"profile": profile, "settings": asdict(chosen), "rows": rows, "summary": lines})


def _table(lines: list[dict[str, object]], published: dict[str, dict[str, float]]) -> Table:
    """Return a table of the scores, with published ones in rows of their own."""
    columns = (("mcc", "MCC"), ("f1", "F1"), ("uniqueness", "uniqueness"), ("explained_variance", "expl. variance"),
               ("l0", "L0"), ("shrinkage", "‖x̂‖/‖x‖"), ("dead", "dead"))
    table = Table("dictionary", *(name for _, name in columns))
    for line in lines:
        name = str(line["dictionary"])
        table.add_row(name, *(_shown(line.get(key)) for key, _ in columns))
        if name in published:
            table.add_row(f"  published, L0 = 25: {name}", *(
                f"{published[name][key]:.3f}" if key in published[name] else "" for key, _ in columns), style="dim")
    return table


def _shown(score: object) -> str:
    if not isinstance(score, dict):
        return "failed"
    half = score["half"]
    return f"{score['mean']:.3f}" + (f" ± {half:.3f}" if half is not None else "")
