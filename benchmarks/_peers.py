"""Peer libraries, each in its own virtual environment: `benchmarks/peers/<name>/`, made at the first use.

`benchmarks/peers/<name>.txt` pins the packages; pip's own settings decide where they come from.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

PEERS = Path(__file__).parent / "peers"


def environment(name: str) -> Path:
    """Return the Python of a peer's environment, after making the environment if it is missing."""
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
