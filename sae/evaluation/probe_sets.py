"""The binary data sets of sae-probes: labelled texts, whose last token is probed (Kantamneni et al. 2025).

The package carries its data: a table of all data sets, `probing_datasets_MASTER.csv.zst`, and one compressed CSV of
`prompt` and `target` each.  They are read from the installed package, which is never imported, or from a folder of that
shape.  The choice of train and test texts is the package's own for seed 0.  No torch.

Shapes: N texts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sae.errors import UserError

PACKAGE = "sae-probes"
_TABLE = "probing_datasets_MASTER.csv.zst"
_COLUMNS = ("Dataset save name", "Data type")
_BINARY = "Binary Classification"
_MAX_TEXTS = 5_000  # of a data set, as sae-probes has it
MIN_TEST = 100
_SEED = 42  # sae-probes' default


@dataclass(frozen=True)
class ProbeSet:
    """One binary data set."""

    name: str
    path: Path


def are_probe_sets(labels: Path | None) -> bool:
    """Return whether a run's labels are data sets of sae-probes: its name, or a folder."""
    return labels is not None and (str(labels) == PACKAGE or labels.is_dir())


def check_labels(labels: Path | None) -> None:
    """Raise UserError (field `labels`) if there is no such file, and no data sets of sae-probes."""
    if labels is not None and are_probe_sets(labels):
        list_sets(labels)
    elif labels is not None and not labels.is_file():
        raise UserError(f"labels: there is no file {labels} on this machine", "labels")


def list_sets(labels: Path) -> list[ProbeSet]:
    """Return the binary data sets of the installed package, or of a folder.

    Raises UserError (field `labels`) if the package is not installed, or the folder has another shape.
    """
    folder = _installed() if str(labels) == PACKAGE else labels
    table = folder / _TABLE
    if not table.is_file():
        raise UserError(f"labels: {folder} has no {_TABLE}, the table of the data sets of sae-probes", "labels")
    found = []
    for line, row in _rows(table, _COLUMNS):
        if row["Data type"] == _BINARY:
            inside = PurePosixPath(row["Dataset save name"])
            if inside.is_absolute() or ".." in inside.parts:
                raise UserError(f"labels: {_TABLE}, line {line}: {inside} is outside the folder", "labels")
            path = folder / f"{inside}.zst"
            if not path.is_file():
                raise UserError(f"labels: {folder} has no {inside}.zst, which {_TABLE} names in line {line}", "labels")
            found.append(ProbeSet(inside.name.removesuffix(".csv"), path))
    if not found:
        raise UserError(f"labels: {table} names no data set of the type {_BINARY}", "labels")
    return found


def _installed() -> Path:
    spec = find_spec("sae_probes")
    if spec is None or spec.origin is None:
        raise UserError("labels: sae-probes is not installed on this machine; pip install --no-deps sae-probes",
                        "labels")
    return Path(spec.origin).parent / "data"


def read_set(probe_set: ProbeSet) -> tuple[list[str], NDArray[np.float64]]:
    """Return the texts with their labels, 0 and 1 in the order of the names.  Raises UserError (field `labels`)."""
    texts, targets = [], []
    for _, row in _rows(probe_set.path, ("prompt", "target")):
        texts.append(row["prompt"])
        targets.append(row["target"])
        if len(texts) == _MAX_TEXTS:
            break
    names = sorted(set(targets))
    if len(names) != 2:
        raise UserError(f"labels: {probe_set.path.name} has {len(names)} labels, and a probe needs two", "labels")
    return texts, np.array([float(target == names[1]) for target in targets])


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a compressed CSV with their lines."""
    try:
        with pa.input_stream(str(path), compression="zstd") as stream, io.TextIOWrapper(
                io.BufferedReader(stream), encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"labels: {path.name} has no column {missing[0]!r}", "labels")
            for row in reader:
                if any(row[name] is None for name in columns):
                    raise UserError(f"labels: {path.name}, line {reader.line_num} is not complete", "labels")
                yield reader.line_num, row
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"labels: {path.name} is no CSV that zstd compressed: {str(error)[:200]}", "labels") from None


def split(y_N: NDArray[np.float64], n_train: int, n_test: int, seed: int
          ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw rows for train and test in random order, half of each positive as far as there are enough.

    For seed 0 they are the ones that sae-probes draws.
    """
    rng = np.random.RandomState(_SEED + seed)
    left = [np.flatnonzero(y_N == label) for label in (1, 0)]
    drawn = []
    for n in (n_train, n_test):
        parts = [rng.choice(rows, min(size, len(rows)), replace=False)
                 for rows, size in zip(left, (-(-n // 2), n // 2), strict=True)]
        left = [np.setdiff1d(rows, part) for rows, part in zip(left, parts, strict=True)]
        drawn.append(np.concatenate(parts))
    train_N, test_N = (rng.permutation(rows) for rows in drawn)
    return train_N, test_N
