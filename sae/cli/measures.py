"""The commands `saescope saebench export` and `import`: results of measures in SAEBench's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sae.cli.export import read_config
from sae.errors import UserError
from sae.evaluation import saebench
from sae.evaluation.published import write_published
from sae.evaluation.registry import ENTRIES
from sae.evaluation.results import StoredResult, read_result
from sae.formats.writers.saelens import saelens_config
from sae.workspace.files import atomic_write
from sae.workspace.paths import Workspace

app = typer.Typer(no_args_is_help=True, help="Read and write result files of SAEBench.")


def measure_table(result: StoredResult) -> Table:
    """Return the values of a measure, each with its interval and the same value of the anchors."""
    entry = ENTRIES.get(result.measure)
    table = Table("", "value", "95% interval", *(anchor.name for anchor in result.anchors),
                  title=entry.title if entry else result.measure, title_justify="left")
    for value in result.values:
        known = value.low is not None and value.high is not None
        anchors = (anchor.value(value.key) for anchor in result.anchors)
        interval = f"{_written(value.low)} to {_written(value.high)}" if known else ""
        table.add_row(value.key, _written(value.value), interval,
                      *(_written(found.value if found else None) for found in anchors))
    return table


def _written(number: float | None) -> str:
    return "–" if number is None else f"{number:.4g}"


@app.command("export")
def export_command(
    sae: Annotated[str, typer.Option(help="The SAE, as <model>/<name>")],
    measure: Annotated[str, typer.Option(help=f"One of {', '.join(saebench.KINDS)}")] = "core",
    out: Annotated[Path | None, typer.Option(help="File to write; by default SAEBench's own name for it")] = None,
) -> None:
    """Write a measure of an SAE as a result file of SAEBench."""
    workspace = Workspace.from_environment()
    config = read_config(workspace, sae)
    result = read_result(workspace.sae(sae), measure) or StoredResult(measure)
    try:
        saelens = saelens_config(config)
    except UserError:  # SAELens cannot express the SAE, but its numbers can be written
        saelens = {}
    content = saebench.result_json(result, config, saelens)
    path = out or Path(saebench.file_name(config, measure))
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False), encoding="utf-8")
    print(path)


@app.command("import")
def import_command(
    files: Annotated[list[Path], typer.Argument(help="Result files of SAEBench, of any type of evaluation")],
) -> None:
    """Add published results, so that the tables and plots of their language model have them, too."""
    workspace = Workspace.from_environment()
    results = [result for path in files for result in saebench.read_file(path)]  # all are read before one is kept
    for result in results:
        write_published(workspace, result)
        print(f"{result.model}: {result.name} ({result.kind}, {len(result.values)} numbers)")
