"""The model worker: a process of its own, the only one of the web program that imports torch.

    python -m app.worker.server --socket <path> [--threads 2] [--memory-mb 4096] [--queue 16]

`Engine` runs on the desk's one model thread, since a language model with hooks on it must not be
used by two.  The process ends when its standard input closes, that is when the process that
started it is gone, however that went.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.worker.desk import Desk, Send, Serve
from app.worker.protocol import Done, Generate, Loading, Progress, Started, Text
from app.worker.shelf import Shelf

if TYPE_CHECKING:
    from sae.lm import LanguageModel

EVENTS_PER_S = 10  # every event carries the full text, so more would cost without showing more


class Engine:
    """Loads on demand and generates.  Make it and use it on one thread only."""

    def __init__(self, *, threads: int, memory_bytes: int, device: str) -> None:
        import torch

        from sae import autoencoder, lm, steer

        # Half of the cores: a training run may have the others, and threads that wait for a core cost more
        # than they bring (in a small model far more).
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 2) // 2))
        self._lm_module, self._autoencoder, self._steer = lm, autoencoder, steer
        self._device = lm.pick_device(device)
        self._shelf = Shelf(memory_bytes)

    def serve(self, job: Generate, send: Send, cancelled: threading.Event) -> None:
        """Do one request, ending with `Done`.  Raises UserError for what the user can mend."""
        request = job.request
        lm = self._model(request.model, send)
        saes = {sae_id: self._sae(sae_id, Path(folder), send) for sae_id, folder in job.folders.items()}
        self._steer.check_saes(lm, saes)
        prompt = self._steer.prompt_ids(lm, request)
        pieces = self._pieces(request.model, lm)
        started = time.monotonic()
        last_sent = 0.0
        columns: Sequence[Any] = ()
        for columns in self._steer.generate(
            lm, prompt, saes, request.interventions, request.where, request.sampling
        ):
            now = time.monotonic()
            if not last_sent:
                send(Started(prompt=_text(prompt, columns[0].acts[: len(prompt)], pieces)))
            if now - last_sent >= 1 / EVENTS_PER_S:
                send(Progress(columns=_texts(columns, len(prompt), pieces)))
                last_sent = now
            if cancelled.is_set():
                break
        send(Done(
            columns=_texts(columns, len(prompt), pieces), tokens=sum(len(c.output) for c in columns),
            stopped=any(c.finish is None for c in columns), seconds=time.monotonic() - started))

    def _model(self, name: str, send: Send) -> LanguageModel:
        def load() -> LanguageModel:
            send(Loading(what=f"loading the language model {name}"))
            loaded: LanguageModel = self._lm_module.LanguageModel.load(name, self._device)
            return loaded

        model: LanguageModel = self._shelf.get(("model", name), load, _model_bytes)
        return model

    def _sae(self, sae_id: str, folder: Path, send: Send) -> Any:
        def load() -> Any:
            send(Loading(what=f"loading the SAE {sae_id}"))
            return self._autoencoder.Autoencoder.load(folder, self._device)

        # An SAE trained again under its old name is another one.
        changed = (folder / "sae.json").stat().st_mtime_ns if (folder / "sae.json").exists() else 0
        return self._shelf.get(
            ("sae", str(folder), changed), load,
            lambda sae: sum(t.numel() * t.element_size() for t in sae.tensors().values()))

    def _pieces(self, name: str, lm: LanguageModel) -> list[str]:
        pieces: list[str] = self._shelf.get(
            ("pieces", name), lambda: [piece.decode("latin-1") for piece in lm.vocabulary()[0]],
            lambda pieces: 64 * len(pieces))
        return pieces


def _model_bytes(lm: LanguageModel) -> int:
    return sum(p.numel() * p.element_size() for p in lm.bridge.original_model.parameters())


def _texts(columns: Sequence[Any], prompt_length: int, pieces: list[str]) -> dict[str, Text]:
    return {c.name: _text(c.output, c.acts[prompt_length:], pieces, c.finish) for c in columns}


def _text(ids: list[int], acts: list[list[float]], pieces: list[str], finish: str | None = None) -> Text:
    return Text(
        ids=list(ids), pieces=[pieces[i] for i in ids], finish=finish,
        acts=[[round(value, 4) for value in row] for row in acts])


def _wait_for_parent(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    loop.call_soon_threadsafe(ended.set)


async def _run(arguments: argparse.Namespace) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if not sys.stdin.isatty():
        threading.Thread(target=_wait_for_parent, args=(loop, ended), daemon=True).start()

    def make() -> Serve:
        return Engine(threads=arguments.threads, memory_bytes=arguments.memory_mb * 2**20,
                      device=arguments.device).serve

    await Desk(make, arguments.queue).serve(Path(arguments.socket), ended)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.worker.server", description="The model worker.")
    parser.add_argument("--socket", required=True, help="Unix socket to listen on")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the models; 0: half of the cores")
    parser.add_argument("--memory-mb", type=int, default=4096, help="limit for loaded models and SAEs")
    parser.add_argument("--queue", type=int, default=16, help="requests that may wait")
    parser.add_argument("--device", default="auto", help="cpu, cuda[:n] or auto")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.INFO)
    asyncio.run(_run(parser.parse_args()))
    # The model thread may be in the middle of a long product; nothing of it is worth waiting for.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
