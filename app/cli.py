"""The `saescope` command: all of `sae.cli.main`, and with it the web program (`serve`, `create-admin`)."""

from __future__ import annotations

import logging
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sae.cli.main import app, guarded
from sae.errors import UserError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from app.settings import Settings

_SECONDS_TO_CLOSE = 3  # for requests and event streams that are open when the server is told to stop


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (HOST)")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one (PORT)")] = None,
    home: Annotated[Path | None, typer.Option(help="The workspace (SAESCOPE_HOME)")] = None,
    demo: Annotated[
        bool | None, typer.Option("--demo/--no-demo", help="Start the demo run in an empty workspace")] = None,
) -> None:
    """Start the web program; prints its address and, while there is no admin, a one-time admin link."""
    import uvicorn

    from app.access.accounts import admin_link
    from app.db.engine import make_engine, make_session_factory, upgrade
    from app.jobs.lock import WorkspaceLock
    from app.main import create_app
    from app.settings import Settings
    from app.web.gc_tuning import rare_collections

    given = {"host": host, "port": port, "home": home, "demo": demo}
    settings = Settings.load(**{name: value for name, value in given.items() if value is not None})
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("alembic", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    listener = _listen(settings.host, settings.port)
    address = f"http://{_shown(settings.host)}:{listener.getsockname()[1]}"
    lock = WorkspaceLock(settings.home, address)
    engine = make_engine(settings.url)
    upgrade(engine)
    link = admin_link(make_session_factory(engine), settings, address)
    engine.dispose()
    _announce(address, link)
    config = server_config(create_app(settings, lock=lock, readers=settings.n_readers), settings)
    try:
        with rare_collections(), suppress(KeyboardInterrupt):  # uvicorn raises it again after everything is closed
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        lock.release()
    typer.echo("saescope has stopped; runs that were going go on at the next start.")


def server_config(program: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return how uvicorn serves `program`: forwarded headers count only from the proxies that the settings name."""
    import uvicorn

    return uvicorn.Config(
        program, log_config=None, access_log=False, timeout_graceful_shutdown=_SECONDS_TO_CLOSE, server_header=False,
        proxy_headers=bool(settings.proxies), forwarded_allow_ips=settings.proxies)


@app.command("create-admin")
def create_admin(
    name: Annotated[str, typer.Option(prompt="Name", help="The user's name")],
    password: Annotated[
        str, typer.Option(
            prompt="Password", hide_input=True, confirmation_prompt=True, envvar="SAESCOPE_ADMIN_PASSWORD",
            help="8 characters or more; asked for when not given")],
) -> None:
    """Make an administrator, or give one a new password.  The server may be running."""
    from app.access import accounts
    from app.db.engine import make_engine, make_session_factory, upgrade
    from app.settings import Settings

    settings = Settings.load()
    settings.home.mkdir(parents=True, exist_ok=True)
    engine = make_engine(settings.url)
    upgrade(engine)
    with make_session_factory(engine)() as db:
        user = accounts.set_password(db, name, password)
    engine.dispose()
    typer.echo(f"{user.name} may sign in at /login as an administrator.")


def _listen(host: str, port: int) -> socket.socket:
    """The listening socket.  Raises UserError where the address is taken or is none of ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio would not know its connections for TCP and leave small packets waiting for each other:
    # every answer would take 40 ms more.
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
    """How a browser on this machine writes the host."""
    if host in ("0.0.0.0", "::", ""):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _announce(address: str, link: str | None) -> None:
    typer.echo(f"saescope is at  {address}")
    if link:
        typer.echo(f"admin link      {link}\n                works once; for a password instead: saescope create-admin")
    typer.echo("Ctrl-C stops it.")
    sys.stdout.flush()


def main() -> None:
    """The entry point.  What is the user's to mend is one line and exit code 2, never a traceback."""
    guarded(app)
