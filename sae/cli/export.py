"""The commands `saescope export` and `saescope push`: SAEs and builds in other formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sae.errors import UserError
from sae.formats.writers.archive import write_folder
from sae.formats.writers.kinds import KINDS, check_kind, members_of
from sae.store.build import Build
from sae.workspace.paths import Workspace

_FORMATS = "; ".join(f"{name}: {kind.description}" for name, kind in KINDS.items())
_SAE = typer.Option(help="The SAE, as <model>/<name>")


def register(app: typer.Typer) -> None:
    """Add both commands to `app`."""
    app.command("export")(export_command)
    app.command("push")(push_command)


def export_command(
    sae: Annotated[str, _SAE],
    format: Annotated[str, typer.Option(help=_FORMATS)] = "saelens",
    out: Annotated[Path | None, typer.Option(help="Folder to make; by default named after SAE and format")] = None,
    build: Annotated[str, typer.Option(help="Build to export; by default the newest")] = "",
) -> None:
    """Write an SAE, or its build, as a folder in another format."""
    workspace = Workspace.from_environment()
    config = read_config(workspace, sae)
    builds = workspace.build_ids(sae)
    if build and build not in builds:
        raise UserError(f"build: {sae} has no build {build!r}; it has {', '.join(builds) or 'none'}", "build")
    check_kind(format, config, has_build=bool(builds))
    folder = out or Path(f"{sae.rpartition('/')[2]}-{format}")
    console = Console(stderr=True)
    opened = Build.open(workspace.build(sae, build or builds[-1])) if KINDS[format].of == "build" else None
    try:
        with console.status("") as status:
            write_folder(members_of(format, workspace.sae(sae), config, opened), folder,
                         lambda name, n: status.update(f"{name}  {n / 1e6:,.1f} MB"))
    finally:
        if opened is not None:
            opened.close()
    print(folder)


def push_command(
    sae: Annotated[str, _SAE],
    repo: Annotated[str, typer.Option(help="Hugging Face repository, as <owner>/<name>; made if it does not exist")],
    format: Annotated[str, typer.Option(help="saelens (which every library reads) or saescope")] = "saelens",
    path: Annotated[str, typer.Option(help="Folder in the repository; by default the SAE's name")] = "",
    private: Annotated[bool, typer.Option(help="Make a new repository private")] = False,
) -> None:
    """Upload an SAE to the Hugging Face hub with a model card.  The token comes from `hf auth login` or HF_TOKEN."""
    from sae.formats.writers.hub import push

    workspace = Workspace.from_environment()
    config = read_config(workspace, sae)
    with Console(stderr=True).status(f"uploading to {repo}"):
        print(push(workspace.sae(sae), config, repo, form=format, path=path, private=private))


def read_config(workspace: Workspace, sae: str) -> dict[str, Any]:
    """Read the `sae.json` of an SAE in the workspace.  Raises UserError (field `sae`)."""
    path = workspace.sae(sae) / "sae.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(workspace.sae_ids()[:8]) or "none"
        raise UserError(f"sae: there is no SAE {sae!r} in this workspace; it has: {known}", "sae") from None
    except ValueError:
        raise UserError(f"sae: {path} is not JSON", "sae") from None
    if not isinstance(config, dict):
        raise UserError(f"sae: {path} is not a JSON object", "sae")
    return config
