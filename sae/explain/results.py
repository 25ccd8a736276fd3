"""The explanations and scores of an SAE: one file in its folder, to which runs only append.  No torch.

Each line is the JSON object of one record.  A line that a killed run left unfinished is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from sae.explain.records import Explanation, Record, from_json, to_json
from sae.workspace.files import atomic_write, lock

FILE = "explanations.jsonl"
PEOPLE = "people.jsonl"  # explanations that a server has in its database, for runs that score them


def results_path(folder: Path) -> Path:
    """Return the file of the SAE in `folder`."""
    return folder / FILE


def append(folder: Path, records: Sequence[Record]) -> None:
    """Add records to the file of the SAE in `folder`.  Processes that append at the same time take turns."""
    if not records:
        return
    lines = "".join(json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) + "\n" for record in records)
    with lock(folder / f".{FILE}.lock"), open(results_path(folder), "ab+") as file:
        if file.seek(0, 2):
            file.seek(-1, 2)
            if file.read(1) != b"\n":  # a process was killed in the middle of a line
                lines = "\n" + lines
        file.write(lines.encode())


def read(folder: Path, offset: int = 0) -> tuple[list[Record], int]:
    """Return the records after byte `offset`, and the offset at which the next read continues."""
    try:
        with open(results_path(folder), "rb") as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return [], 0
    whole, newline, _ = content.rpartition(b"\n")
    return list(_records(whole.split(b"\n"))), offset + len(whole) + len(newline)


def write_people(folder: Path, explanations: Sequence[Explanation]) -> None:
    """Write the explanations of people, as a server has them, next to the file of the SAE in `folder`."""
    with atomic_write(folder / PEOPLE) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(to_json(one), ensure_ascii=False) + "\n" for one in explanations)


def read_all(folder: Path) -> list[Record]:
    """Return the records of the SAE's file, and the explanations of people that a server has left next to it."""
    people = folder / PEOPLE
    return [*read(folder)[0], *(read_file(people) if people.is_file() else ())]


def read_file(path: Path) -> list[Record]:
    """Return the records of a file that has the form of an SAE's own."""
    with open(path, "rb") as file:
        return list(_records(file))


def _records(lines: Iterable[bytes]) -> Iterable[Record]:
    for line in lines:
        try:
            record = from_json(json.loads(line)) if line else None
        except ValueError:
            continue
        if record is not None:
            yield record
