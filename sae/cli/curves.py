"""`saescope curves`: the curves of a run for TensorBoard or Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae.errors import UserError
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace


def curves_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or its folder")],
    to: Annotated[str, typer.Option(help="tensorboard, or wandb (Weights & Biases); each is an extra")] = "tensorboard",
    out: Annotated[Path, typer.Option(help="Folder of the event files, or of the local files of wandb")] = Path("logs"),
    follow: Annotated[bool, typer.Option("--follow", help="Continue until the run has ended")] = False,
    project: Annotated[str, typer.Option(help="Project at Weights & Biases")] = "saescope",
) -> None:
    """Write the curves of a run as TensorBoard event files, or send them to Weights & Biases."""
    from sae.runs.curve_export import export, make_writer

    path = Path(run) if (Path(run) / "spec.json").is_file() else Workspace.from_environment().run(run)
    if not (path / "spec.json").is_file():
        raise UserError(f"run: there is no run {run}", "run")
    folder = RunFolder(path.resolve())
    n = export(folder, make_writer(to, folder, out, project), follow)
    typer.echo(f"{n} points of {folder.id} are in {out if to == 'tensorboard' else project}.")
