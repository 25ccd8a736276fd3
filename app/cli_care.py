"""The commands that take care of a workspace: `backup`, `restore`, `doctor` and `gc`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sae.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from app.settings import Settings

_HOME = typer.Option("--home", help="The workspace (SAESCOPE_HOME)")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for name, command in (("backup", backup), ("restore", restore), ("doctor", doctor), ("gc", collect_garbage)):
        app.command(name)(command)


def backup(
    dest: Annotated[Path, typer.Argument(help="A folder that does not exist yet", show_default=False)],
    copy: Annotated[bool, typer.Option("--copy", help="Copy every file instead of linking it")] = False,
    home: Annotated[Path | None, _HOME] = None,
) -> None:
    """Back up the workspace and its database.  The server may be running."""
    from app.library.backup import make_backup

    with _database(home) as (engine, settings):
        made = make_backup(engine, settings.home, dest, link=not copy)
    typer.echo(f"{made.files:,} files, {_size(made.n_bytes)}, are backed up in {dest}.")
    if made.linked:
        typer.echo(f"{made.linked:,} of them are hard links. They protect from deletion, not from a failing disk: copy "
                   "the folder to another disk, or use --copy.")


def restore(
    src: Annotated[Path, typer.Argument(help="A backup", show_default=False)],
    home: Annotated[Path | None, _HOME] = None,
    check: Annotated[bool, typer.Option("--check", help="Only compare the backup with its checksums")] = False,
) -> None:
    """Check a backup and restore it into an empty workspace.  No server may be running there."""
    from app.db.engine import make_engine
    from app.jobs.lock import WorkspaceLock
    from app.library.backup import check_backup, restore_backup

    if check:
        typer.echo(f"All {len(check_backup(src)):,} files of {src} are as they were backed up.")
        return
    settings = _settings(home)
    lock = WorkspaceLock(settings.home, "restore")
    engine = make_engine(settings.url)
    try:
        done = restore_backup(src, engine, settings.home)
    finally:
        engine.dispose()
        lock.release()
    typer.echo(f"{done.files:,} files, {_size(done.n_bytes)}, are restored to {settings.home}.")


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Carry out the mends that can lose nothing")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Read every block of every build")] = False,
    home: Annotated[Path | None, _HOME] = None,
) -> None:
    """Look for missing, orphaned, damaged and stale files, and say what mends them.  Exit code 1: some remain."""
    from app.jobs.doctor import examine_all

    settings = _settings(home)
    remaining = 0
    for finding in examine_all(settings, deep):
        typer.echo(str(finding))
        if fix and finding.fix is not None:
            finding.fix()
            typer.echo("  mended")
        else:
            remaining += 1
            if finding.fix is not None:
                typer.echo("  --fix does this")
    if remaining:
        raise typer.Exit(1)
    typer.echo(f"{settings.home} is in order.")


def collect_garbage(
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only list")] = False,
    days: Annotated[float, typer.Option(min=0, help="Age in days from which checkpoints and corpora can go")] = 30,
    only: Annotated[str, typer.Option(help="checkpoint, build, corpus or staging; empty: all")] = "",
    home: Annotated[Path | None, _HOME] = None,
) -> None:
    """List, or with --yes delete, old checkpoints, replaced builds, unused corpora and unfinished files."""
    from app.jobs.doctor import busy_runs
    from sae.runs.garbage import KINDS, find_garbage

    if only and only not in KINDS:
        raise UserError(f"only: {only!r} is not one of {', '.join(KINDS)}", "only")
    settings = _settings(home)
    busy = busy_runs(settings)
    total = 0
    for one in find_garbage(settings.workspace, days):
        if (only and one.kind != only) or any(part in busy for path in one.paths for part in path.parts):
            continue
        total += one.n_bytes
        typer.echo(f"{one.kind:10} {_size(one.n_bytes):>9}  {one.paths[0].relative_to(settings.home)}: {one.reason}")
        if yes:
            one.remove()
    typer.echo(f"{_size(total)} {'freed' if yes else 'can be freed: saescope gc --yes'}")


def _settings(home: Path | None) -> Settings:
    from app.settings import Settings

    return Settings.load(**({} if home is None else {"home": home}))


@contextmanager
def _database(home: Path | None) -> Iterator[tuple[Engine, Settings]]:
    from app.db.engine import make_engine
    from app.db.start_faults import named_faults

    settings = _settings(home)
    if not settings.home.is_dir():
        raise UserError(f"SAESCOPE_HOME: there is no workspace {settings.home}", "SAESCOPE_HOME")
    engine = make_engine(settings.url)
    try:
        with named_faults(engine):
            yield engine, settings
    finally:
        engine.dispose()


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:,.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} GB"
