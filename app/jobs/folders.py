"""Access to run folders that other programs write and that users may delete at any moment."""

from __future__ import annotations

from sae.runs.folder import FINAL_STATES, RunFolder

_TAIL_BYTES = 20_000


def reopen(folder: RunFolder) -> None:
    """Remove the cancel request and the final state of a run, so that the next process resumes it."""
    if not folder.path.is_dir():
        return
    folder.clear_cancel()
    status = folder.status()
    if status is not None and status.state in FINAL_STATES - {"succeeded"}:
        status.state, status.error, status.finished, status.pid = "interrupted", None, None, None
        folder.write_status(status)


def log_tail(folder: RunFolder, lines: int = 30) -> list[str]:
    """Return the last lines that the run printed; a line that a progress bar rewrote counts once."""
    try:
        with open(folder.log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - max(_TAIL_BYTES, 200 * lines)))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n") if line.strip()][-lines:]


def last_line(folder: RunFolder) -> str:
    """Return the last line that the run printed, or "(nothing)"."""
    tail = log_tail(folder, 1)
    return tail[0].strip()[:300] if tail else "(nothing)"
