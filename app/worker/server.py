"""The model worker, the only process of the web program that imports torch.

    python -m app.worker.server --socket <path> [--threads 2] [--memory-mb 4096] [--queue 16] [--places 32]
    python -m app.worker.server --listen 0.0.0.0:7000 --token-file <path>

`app.worker.engine` runs on the single model thread of the request queue, because two threads must not use a language
model with hooks on it.  A worker on a Unix socket ends when its standard input closes, which happens when the process
that started it ends for any reason.  A worker that listens on a port is started by hand, on a host
that sees the workspace under the same path.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

from app.web import logs
from app.web.parameters import whole_number
from app.worker.queue import Address, RequestQueue, Serve


def _wait_for_parent(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    """Set `ended` when standard input closes, which happens when the parent process ends; nothing is written to it."""
    sys.stdin.buffer.read()
    loop.call_soon_threadsafe(ended.set)


async def _run(arguments: argparse.Namespace) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if arguments.socket and not sys.stdin.isatty():
        threading.Thread(target=_wait_for_parent, args=(loop, ended), daemon=True).start()

    def make() -> Serve:
        from app.worker.engine import Engine  # imports torch, which must wait until the worker listens

        return Engine(threads=arguments.threads, memory_bytes=arguments.memory_mb * 2**20, device=arguments.device)

    await RequestQueue(make, arguments.queue, arguments.places).serve(_address(arguments), ended)


def _address(arguments: argparse.Namespace) -> Address:
    if arguments.socket:
        return Address(socket=Path(arguments.socket))
    host, _, port = (arguments.listen or "").rpartition(":")
    token = Path(arguments.token_file).read_text(encoding="utf-8").strip() if arguments.token_file else ""
    number = whole_number(port, 65_536)
    if number is None or not token:
        raise SystemExit("--listen needs <host>:<port>, and --token-file with the shared token")
    return Address(host=host, port=number, token=token)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.worker.server", description="The model worker.")
    parser.add_argument("--socket", help="Unix socket to listen on")
    parser.add_argument("--listen", help="<host>:<port> to listen on instead of a socket")
    parser.add_argument("--token-file", help="with --listen: a file with the token that clients must send")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the models; 0: half of the cores")
    parser.add_argument("--memory-mb", type=int, default=4096, help="limit for loaded models and SAEs")
    parser.add_argument("--queue", type=int, default=16, help="requests that may wait")
    parser.add_argument("--places", type=int, default=32, help="requests executed at the same time")
    parser.add_argument("--device", default="auto", help="cpu, cuda[:n], mps or auto")
    logs.configure(os.environ.get("SAESCOPE_LOG", "text"))
    asyncio.run(_run(parser.parse_args()))
    # The model thread may be in the middle of a long computation, whose result nobody needs any more.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
