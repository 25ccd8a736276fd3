"""Inspection of a source in a separate process: `python -m sae.runs.inspect_source`.

The process reads a spec as JSON from standard input and answers in JSON on standard output:

    {"facts": {...}} | {"asks": {setting: why}, "facts": {...}} | {"error": message, "field": setting or null}

The web program inspects files in this way so that a hostile file cannot crash it or fill its memory.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from typing import Any

from sae.errors import UserError
from sae.formats.foreign import Foreign, MissingFacts
from sae.runs.import_sae import look
from sae.specs.imports import ImportSpec
from sae.workspace.paths import Workspace

TIMEOUT_S = 300


def inspect(spec: ImportSpec, workspace: Workspace) -> dict[str, Any]:
    """Inspect the source in another process and return its answer.  Never raises because of the file's content."""
    environment = {**os.environ, "SAESCOPE_HOME": str(workspace.root)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sae.runs.inspect_source"], input=spec.model_dump_json(), text=True,
            capture_output=True, timeout=TIMEOUT_S, env=environment, check=False)
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"source: reading the file took more than {TIMEOUT_S} s", "field": "source"}
    except (ValueError, IndexError, OSError):
        return {"error": "source: the file could not be read: the reading process ended without an answer",
                "field": "source"}
    return answer


def facts(foreign: Foreign | None) -> dict[str, Any]:
    """Return the facts about a file that the form shows."""
    if foreign is None:
        return {}
    w = foreign.weights
    return {"format": foreign.format, "n_latents": len(w.b_enc_L),
            "width": w.W_enc_LD.shape[1], "dtype": foreign.dtype, "model": foreign.model, "hook": foreign.hook,
            "architecture": "" if "architecture" in foreign.asks else w.architecture,
            "out_hook": foreign.out_hook, "claims": foreign.claims, "notes": foreign.notes}


def _answer(text: str) -> dict[str, Any]:
    try:
        return {"facts": facts(look(ImportSpec(**json.loads(text)), Workspace.from_environment()))}
    except MissingFacts as error:
        return {"asks": error.asks, "facts": facts(error.foreign)}
    except UserError as error:
        return {"error": str(error), "field": error.field}
    except MemoryError:
        return {"error": "source: the file does not fit into this machine's memory", "field": "source"}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps(_answer(sys.stdin.read())), flush=True)
    os._exit(0)  # unloading torch takes a third of a second, which the form would wait for
