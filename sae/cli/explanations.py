"""The commands `saescope explanations import` and `export`: explanations of an SAE in the formats of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae.cli.export import read_config
from sae.errors import UserError
from sae.explain import results
from sae.explain.exchange import formats
from sae.formats.writers.neuronpedia import source_id
from sae.workspace.paths import Workspace

_SAE = typer.Option(help="The SAE, as <model>/<name>")
_FORMATS = "; ".join(f"{name}: {said}" for name, said in formats.FORMATS.items())

app = typer.Typer(no_args_is_help=True, help="Import or export the explanations of an SAE's latents.")


@app.command("import")
def import_command(
    path: Annotated[Path, typer.Argument(help="A file or folder of Neuronpedia, delphi, SAEBench or saescope")],
    sae: Annotated[str, _SAE],
    source: Annotated[str, typer.Option(help="The source in a file of several, such as 6-res-jb, or the module in a "
                                        "folder of delphi, such as layers.5")] = "",
) -> None:
    """Add explanations with their type, model and scores to an SAE.  Those that it has already are skipped."""
    workspace = Workspace.from_environment()
    records = formats.read(path, int(read_config(workspace, sae)["n_latents"]), source)
    print(f"{formats.add(workspace.sae(sae), records):,} explanations added to {sae}")


@app.command("export")
def export_command(
    sae: Annotated[str, _SAE],
    format: Annotated[str, typer.Option(help=_FORMATS)] = "neuronpedia",
    out: Annotated[Path | None, typer.Option(help="File or folder to make")] = None,
    module: Annotated[str, typer.Option(help="The name of the SAE's module in delphi's files, such as layers.5; "
                                        "by default the hook point")] = "",
) -> None:
    """Write the explanations that runs and imports have made of an SAE.  Labels are exported by the pages."""
    workspace = Workspace.from_environment()
    config = read_config(workspace, sae)
    records, _ = results.read(workspace.sae(sae))
    if not records:
        raise UserError(f"sae: {sae} has no explanations; make some with: saescope explain --sae {sae}", "sae")
    suffix = {"delphi": "", "saebench": ".json"}.get(format, ".jsonl")
    target = out or Path(f"{sae.rpartition('/')[2]}-explanations-{format}{suffix}")
    formats.write(format, records, target, sae, source_id(config), module or config["site"]["hook"])
    print(target)
