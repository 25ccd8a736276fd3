"""`saescope check`: what holds of a language model here, compared with the plain Hugging Face model."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sae.errors import UserError
from sae.lm.model_info import find_model
from sae.workspace.paths import Workspace


def check_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="`demo`, a directory, or a Hugging Face name")],
    device: Annotated[str, typer.Option(help="cpu, cuda[:n] or auto")] = "auto",
    again: Annotated[bool, typer.Option(help="Check again, although the workspace has a table of this model")] = False,
) -> None:
    """Compare a language model as it is read and steered here with the plain one, and print the table."""
    from sae.lm.bridge import LanguageModel
    from sae.lm.conformance.opening import report_of

    if find_model(model).items:
        raise UserError(f"model: {model} holds vectors and no language model, so there is nothing to check", "model")
    lm = LanguageModel.load(model, device)
    report = report_of(lm, Workspace.from_environment(), again=again)
    console = Console()
    console.print(f"{report.model} ({report.architecture})", soft_wrap=True, markup=False, highlight=False)
    table = Table("what", "result", "detail")
    for row in report.rows:
        table.add_row(row.subject, row.status, row.detail)
    console.print(table)
    if report.error:
        raise UserError(report.error, "model")
