"""The command line: train, index, evaluate, steer, run, demo and the other commands that need no web program.

The commands use the same run folders as the pages.  A run that is started here appears in the browser, and
either of the two can resume it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sae.cli.check import check_command
from sae.cli.curves import curves_command
from sae.cli.explanations import app as explanations_app
from sae.cli.export import register as register_exports
from sae.cli.measures import app as saebench_app
from sae.cli.measures import measure_table
from sae.cli.reproduce import reproduce_command
from sae.cli.steer import steer_command
from sae.cli.synthetic import synthetic_command
from sae.errors import UserError
from sae.evaluation.results import read_result
from sae.runs.folder import ProgressFile, RunFolder, Status
from sae.specs.registry import POSITIONAL, SPECS, as_text, demo_spec
from sae.workspace.disk import fault_words
from sae.workspace.paths import Workspace

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Train sparse autoencoders, browse their latents, steer with them.")
console = Console()
_HELP = {
    "train": "Train an SAE, evaluate it on held-out text, and build its index.",
    "sweep": "Train a grid of SAEs (architectures × sizes × k) on one pass of activations.",
    "index": "Rebuild the index of an SAE, with other text or settings.",
    "evaluate": "Measure an SAE on held-out text, by one or more measures.",
    "import": "Add an SAE or a dashboard made by another program; it is checked on real activations.",
    "compare": "Compare two SAEs of one language model, latent by latent.",
    "activations": "Keep activations of a text on disk, for several trainings on one pass of the language model.",
    "index-part": "Read one part of an index run's text, in a process or on a machine of its own.",
    "sweep-part": "Train one part of a sweep's grid, in a process or on a machine of its own.",
    "evaluate-part": "Make one part of an evaluation's measures, in a process or on a machine of its own.",
    "explain-part": "Explain one part of the latents of a run, in a process or on a machine of its own."}


def _spec_command(kind: str) -> Callable[..., None]:
    """Make a command whose options are the fields of the spec, with their descriptions and defaults."""
    import inspect

    def command(**values: Any) -> None:
        given = {name: value for name, value in values.items() if value is not None}
        _start_and_watch(kind, given)

    parameters = []
    for name, field in SPECS[kind].model_fields.items():
        shown = "required" if field.default is PydanticUndefined else as_text(field.default)
        description = f"{field.description} [dim](default: {shown})[/dim]"
        flag = name.replace("_", "-")
        names = f"--{flag}/--no-{flag}" if field.annotation is bool else f"--{flag}"
        option: Any = typer.Option(names, help=description, show_default=False)
        annotation: Any = field.annotation if field.annotation in (int, float, bool) else str
        required = field.default is PydanticUndefined
        if name == POSITIONAL.get(kind):
            option = typer.Argument(metavar=name.upper(), help=field.description, show_default=False)
        parameters.append(inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=inspect.Parameter.empty if required else None,
            annotation=Annotated[annotation if required else annotation | None, option]))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = _HELP.get(kind, SPECS[kind].__doc__)
    return command


for _kind in SPECS:
    app.command(_kind)(_spec_command(_kind))


app.command("check")(check_command)
app.command("curves")(curves_command)
app.command("steer")(steer_command)
app.command("reproduce")(reproduce_command)
app.command("synthetic")(synthetic_command)
register_exports(app)
app.add_typer(explanations_app, name="explanations")
app.add_typer(saebench_app, name="saebench")


@app.command()
def demo() -> None:
    """Train and index the demo SAE on the embedded language model, as the server does for an empty workspace."""
    _start_and_watch("train", demo_spec().model_dump())


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="A run folder (…/runs/<id>)")],
    quiet: Annotated[bool, typer.Option(help="Print lines instead of a progress bar (for logs)")] = False,
) -> None:
    """Execute a run folder, or resume it."""
    from sae.runs.execute import execute, folder_of

    run_folder, workspace = folder_of(folder)
    plain = quiet or not console.is_terminal or "RANK" in os.environ  # each process of torchrun would draw a bar
    raise typer.Exit(execute(run_folder, workspace) if plain else _watch(run_folder, workspace))


def _start_and_watch(kind: str, values: dict[str, Any]) -> None:
    from sae.runs.create import start

    workspace = Workspace.from_environment()
    folder = start(kind, values, workspace)
    console.print(f"run {folder.id}  ({folder.path})", highlight=False)
    code = _watch(folder, workspace)
    status = folder.status()
    if code == 0 and status and "measured" in status.result:
        for name in status.result["measured"]:
            result = read_result(workspace.sae(status.result["sae"]), name)
            console.print(measure_table(result) if result else name)
    elif code == 0 and status and status.result.get("metrics"):
        console.print(_metrics(status.result["metrics"]))
    if code == 0 and status and status.result.get("members"):
        console.print(_members(status.result["members"]))
    raise typer.Exit(code)


def _watch(folder: RunFolder, workspace: Workspace) -> int:
    """Execute the run in this process while a thread draws progress bars from `status.json`."""
    from sae.runs.execute import execute

    finished = threading.Event()
    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(),
               TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console) as bars:
        thread = threading.Thread(target=_draw, args=(folder, bars, finished), daemon=True)
        thread.start()
        try:
            code = execute(folder, workspace)
        finally:
            finished.set()
            thread.join()
    return code


def _draw(folder: RunFolder, bars: Progress, finished: threading.Event) -> None:
    tasks: dict[str, Any] = {}
    curves = ProgressFile(folder)
    while True:
        last = finished.wait(0.3)
        status = folder.status()
        if status and status.phase:
            if status.phase not in tasks:
                tasks[status.phase] = bars.add_task(status.phase, total=None, rate="", note="")
            bars.update(tasks[status.phase], completed=status.done, total=status.total or None,
                        rate=f"{status.rate:,.0f} {status.unit}/s" if status.rate else "", note=_note(curves, status))
        if last:
            return


def _note(curves: ProgressFile, status: Status) -> str:
    left = f"{status.eta_s:.0f} s left" if status.eta_s is not None else ""
    rows = [row for row in curves.read() if row.get("fvu")] if status.phase == "training" else []
    last = [row for row in rows if row["step"] == rows[-1]["step"]]  # one row for each SAE of a sweep
    curve = "".join(
        f"{name} {_span([row[key] for row in last], form)}  "
        for name, key, form in (("FVU", "fvu", ".3f"), ("L0", "l0", ".1f"), ("dead", "dead", ".1%"))) if last else ""
    return curve + (status.message or left)


def _span(values: list[float], form: str) -> str:
    low, high = f"{min(values):{form}}", f"{max(values):{form}}"
    return low if low == high else f"{low}–{high}"


def _members(members: list[dict[str, Any]]) -> Table:
    """Return a table of a sweep's SAEs: the metrics of each, or the reason why it failed."""
    table = Table("SAE", "FVU", "L0", "ΔCE", "dead")
    for member in members:
        metrics = member.get("metrics")
        table.add_row(member["name"], *(
            [f"{metrics['fvu']:.4f}", f"{metrics['l0']:.1f}", f"{metrics['delta_ce']:.4f}",
             f"{metrics['dead_fraction']:.1%}"] if metrics else [member["error"], "", "", ""]))
    return table


def _metrics(metrics: dict[str, Any]) -> Table:
    table = Table(show_header=False)
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else json.dumps(value))
    return table


def guarded(command: Callable[[], Any]) -> Any:
    """Run a command line; print a UserError, or a fault of the disk, as one line and exit with code 2."""
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if not (words := fault_words(error)):
            raise
        print(f"error: {words}", file=sys.stderr)
        raise SystemExit(2) from None


def main() -> None:
    """Run the commands without the web program: `python -m sae`."""
    guarded(app)
