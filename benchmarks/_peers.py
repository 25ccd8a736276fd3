"""Peer libraries, each in a virtual environment of its own: `benchmarks/peers/<name>/`, made on first use.

`benchmarks/peers/<name>.txt` pins what goes in; pip's own settings say where packages come from.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

PEERS = Path(__file__).parent / "peers"


def environment(name: str) -> Path:
    """The Python of a peer's environment."""
    folder = PEERS / name
    python = folder / "bin" / "python"
    done = folder / ".installed"
    if not done.exists():
        print(f"making {folder} (once, some minutes)", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r",
                        PEERS / f"{name}.txt"], check=True)
        done.touch()
    return python
