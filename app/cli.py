"""The `saescope` command: the commands of `sae.cli.main`, and `serve`, `create-admin`, `delete`, `rename` and `mcp`.

The commands that take care of a workspace are in `app.cli_care`.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli_care import register as register_care
from sae.cli.ending import end_at_once
from sae.cli.main import app, guarded
from sae.errors import UserError
from sae.workspace.disk import ReadOnlyWorkspace, open_workspace

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI
    from sqlalchemy.orm import Session

    from app.settings import Settings
    from sae.workspace.paths import Workspace

register_care(app)

_SECONDS_TO_CLOSE = 3  # for requests and event streams that are open when the server stops


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (HOST)")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one (PORT)")] = None,
    home: Annotated[Path | None, typer.Option(help="The workspace (SAESCOPE_HOME)")] = None,
    demo: Annotated[
        bool | None, typer.Option("--demo/--no-demo", help="Start the demo run in an empty workspace")] = None,
) -> None:
    """Start the web program and print its address and, while there is no administrator, a one-time admin link."""
    import uvicorn

    from app.jobs.lock import WorkspaceLock
    from app.settings import Settings
    from app.web import logs
    from app.web.connections import allow_many_files
    from app.web.gc_tuning import rare_collections
    from sae.kernels.malloc import keep_little_memory

    given = {"host": host, "port": port, "home": home, "demo": demo}
    settings = Settings.load(**{name: value for name, value in given.items() if value is not None})
    logs.configure(settings.log)
    allow_many_files()
    keep_little_memory()
    read_only = False
    try:
        open_workspace(settings.home)
    except ReadOnlyWorkspace:
        read_only = True
    with closing(_listen(settings.host, settings.port)) as listener:
        address = f"http://{_shown(settings.host)}:{listener.getsockname()[1]}"
        lock = None if read_only else WorkspaceLock(settings.home, address, shared=settings.several_servers)
        try:
            from app.main import create_app  # it takes more than a second, which a wrong setting need not wait for

            _announce(address, None if read_only else _first_link(settings, address))
            config = server_config(create_app(settings, lock=lock, page_workers=settings.n_page_workers), settings)
            with rare_collections(), suppress(KeyboardInterrupt):  # uvicorn raises it again after all is closed
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            if lock is not None:
                lock.release()
    typer.echo("saescope has stopped; interrupted runs resume at the next start.")


def _first_link(settings: Settings, address: str) -> str | None:
    """Upgrade the database and return the one-time link to print, or None if there is an administrator."""
    from app.access.first_admin import first_link
    from app.db.engine import make_engine, make_session_factory, upgrade

    engine = make_engine(settings.url)
    try:
        upgrade(engine)
        return first_link(make_session_factory(engine), settings, address)
    finally:
        engine.dispose()


def server_config(program: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration.  Forwarded headers count only if they come from a trusted proxy."""
    import uvicorn

    from app.web.connections import MOST, ImpatientProtocol

    return uvicorn.Config(
        program, log_config=None, access_log=False, timeout_graceful_shutdown=_SECONDS_TO_CLOSE, server_header=False,
        http=ImpatientProtocol, limit_concurrency=MOST,
        proxy_headers=bool(settings.proxies), forwarded_allow_ips=settings.proxies)


@app.command("create-admin")
def create_admin(
    name: Annotated[str, typer.Option(prompt="Name", help="The user's name")],
    password: Annotated[
        str, typer.Option(
            prompt="Password", hide_input=True, confirmation_prompt=True, envvar="SAESCOPE_ADMIN_PASSWORD",
            help="8 characters or more; if it is not given, the command asks for it")],
) -> None:
    """Create an administrator, or give an existing one a new password.  The server may be running."""
    from app.access import accounts
    from app.db.engine import make_engine, make_session_factory, upgrade
    from app.settings import Settings

    settings = Settings.load()
    open_workspace(settings.home)
    engine = make_engine(settings.url)
    upgrade(engine)
    with make_session_factory(engine)() as db:
        user = accounts.set_password(db, name, password)
    engine.dispose()
    typer.echo(f"{user.name} can now sign in at /login as an administrator.")


@app.command()
def delete(
    sae: Annotated[str, typer.Argument(help="The SAE, as <model>/<name>", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation")] = False,
) -> None:
    """Delete an SAE with its builds, comparisons and labels.  The server may be running."""
    from app.jobs.sae_changes import belongings, delete_sae

    with _database(sae) as (db, workspace):
        owned = belongings(db, workspace, sae)
        typer.echo(f"{sae}: {owned.files.builds} builds, {owned.files.comparisons} comparisons, "
                   f"{owned.labels} labelled latents, {owned.files.n_bytes / 1e6:,.1f} MB")
        if not (yes or typer.confirm("Delete all of it?")):
            raise typer.Exit(1)
        delete_sae(db, workspace, sae)
    typer.echo(f"{sae} is deleted.")


@app.command()
def rename(
    sae: Annotated[str, typer.Argument(help="The SAE, as <model>/<name>", show_default=False)],
    new: Annotated[str, typer.Argument(help="The new name, without the model", show_default=False)],
) -> None:
    """Rename an SAE; its builds, comparisons and labels move with it.  The server may be running."""
    from app.jobs.sae_changes import rename_sae

    with _database(sae) as (db, workspace):
        new_id = rename_sae(db, workspace, sae, new.removeprefix(f"{sae.partition('/')[0]}/"))
    typer.echo(f"{sae} is now {new_id}.")


@app.command("mcp")
def mcp_server(
    url: Annotated[str, typer.Option(envvar="SAESCOPE_URL", help="Address of the running server")] =
        "http://127.0.0.1:8000",
    token: Annotated[
        str | None, typer.Option(envvar="SAESCOPE_TOKEN", help="An API token, if the server needs one")] = None,
    allow_steer: Annotated[bool, typer.Option("--allow-steer", help="Let assistants steer, too")] = False,
) -> None:
    """Serve the latents of a running server to assistants by MCP, over standard input and output."""
    try:
        from sae.client.mcp_server import serve as serve_mcp
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mcp":
            raise
        raise UserError("mcp: the library is not installed; install it with: pip install 'saescope[mcp]'") from None
    serve_mcp(url, token, allow_steer=allow_steer)


@contextmanager
def _database(sae: str) -> Iterator[tuple[Session, Workspace]]:
    """Open the app database and the workspace of an SAE.  Raises UserError if there is no such SAE."""
    from app.db.engine import make_engine, make_session_factory, upgrade
    from app.settings import Settings

    settings = Settings.load()
    if sae not in settings.workspace.sae_ids():
        raise UserError(f"sae: there is no SAE {sae} in {settings.home}", "sae")
    engine = make_engine(settings.url)
    upgrade(engine)
    with make_session_factory(engine)() as db:
        yield db, settings.workspace
    engine.dispose()


def _listen(host: str, port: int) -> socket.socket:
    """Return the listening socket.  Raises UserError if the address is in use or does not belong to this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets whose protocol is given as TCP.  Without it small packets wait for each
    # other, and every answer takes 40 ms longer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another address or port "
            "(HOST and PORT)") from None
    return listener


def _shown(host: str) -> str:
    """Return the host as a browser on this machine writes it."""
    if host in ("0.0.0.0", "::", ""):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _announce(address: str, link: str | None) -> None:
    typer.echo(f"saescope is at  {address}")
    if link:
        typer.echo(f"admin link      {link}\n                valid once; to set a password, run: saescope create-admin")
    typer.echo("Press Ctrl-C to stop it.")
    sys.stdout.flush()


def main() -> None:
    """Run the command line; a user error is one line and exit code 2, never a traceback."""
    end_at_once(lambda: guarded(app))
