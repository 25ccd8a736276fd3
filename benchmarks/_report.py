"""The report of every benchmark: a table for people, or one JSON object with `--json`."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """Return the hardware and versions for which the figures hold."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": model, "cores": os.cpu_count(), "gpu": gpu,
        "torch": torch.__version__, "python": platform.python_version(),
    }


def commit() -> str:
    """Return the checked-out commit, or an empty string outside a checkout."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def bar(name: str, value: float, goal: str, holds: bool) -> dict[str, Any]:
    """Return one goal with its measured value and whether it is reached."""
    return {"name": name, "value": value, "goal": goal, "holds": holds}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [list(map(str, header)), ["---"] * len(header), *[list(map(str, row)) for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bars_table(bars: list[dict[str, Any]]) -> str:
    """Return a table of the goals and the measured values."""
    return table(["figure", "goal", "measured", "holds"],
                 [[b["name"], b["goal"], f"{b['value']:.4g}", "yes" if b["holds"] else "NO"] for b in bars])


def emit(name: str, results: Any, bars: list[dict[str, Any]], as_json: bool) -> None:
    """Print the bars as a table, or everything as one line of JSON."""
    if as_json:
        print(json.dumps({"name": name, "machine": machine(), "commit": commit(), "results": results, "bars": bars}))
    elif bars:
        print("\n" + bars_table(bars))


def write(name: str, title: str, how: str, tables: str) -> Path:
    """Write figures to `benchmarks/results`, with the hardware, the date and the exact command."""
    found, today = machine(), datetime.date.today().isoformat()
    processor = found["gpu"] or found["cpu"]
    kind = next((word for word in ("xeon", "epyc", "ryzen", "core", "h200", "h100", "a100")
                 if word in processor.lower()), "machine")
    hardware = kind if found["gpu"] else f"{found['cores']}-core-{kind}"
    path = Path(__file__).parent / "results" / f"{name}_{hardware}_{today}.md"
    command = " ".join(["python -m", f"benchmarks.{name}", *sys.argv[1:]])
    path.write_text(
        f"# {title}\n\n{processor}, {found['cores']} cores; torch {found['torch']}, Python {found['python']}; "
        f"commit {commit()}, {today}.\n\n    {command}\n\n{how.strip()}\n\n{tables}\n", encoding="utf-8")
    return path
