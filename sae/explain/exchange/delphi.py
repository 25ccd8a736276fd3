"""Explanations and scores in the folder that EleutherAI's delphi writes, in both directions.  No torch.

    explanations/<module>_latent<n>.txt        the explanation, a JSON string
    scores/<scorer>/<module>_latent<n>.txt     a list of examples with `activating` and `prediction`

A folder may have several modules, one for each SAE.  Only explanations are written: delphi computes its scores from
examples in its own format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sae.errors import UserError
from sae.explain import measures
from sae.explain.records import MAX_TEXT, Explanation, Record, Score, digest
from sae.formats import untrusted_json

_NAME = re.compile(r"(?:(.*?)[_.-])?(?:latent|feature)?_?(\d{1,9})\.(?:txt|json)")
_SCORERS = {"detection": "detection", "fuzz": "fuzzing", "fuzzing": "fuzzing"}
METHOD = "delphi"
_FAILED = "Explanation could not be parsed."  # delphi writes this where it could not read its model's answer


def root_of(path: Path) -> Path | None:
    """Return the folder with the explanations, or None if `path` has none."""
    for folder in (path / "explanations", path):
        if folder.is_dir() and any(_parts(file) is not None for file in folder.glob("*.txt")):
            return folder
    return None


def read(path: Path, source: str = "") -> Iterator[Record]:
    """Yield the explanations of one module, each after its scores.

    Raises UserError (field `source`) if files are damaged, or if there are several modules and `source` names none.
    """
    folder = root_of(path)
    if folder is None:
        raise UserError(f"source: {path} has no explanations of delphi, such as layers.5_latent12.txt", "source")
    found = {file: parts for file in sorted(folder.glob("*.txt")) if (parts := _parts(file)) is not None}
    modules = sorted({module for module, _ in found.values()})
    if len(modules) > 1 and not source:
        raise UserError(f"source: the folder has several modules ({', '.join(modules[:9])}); name one of them",
                        "source")
    for file, (module, latent) in found.items():
        if source and module != source:
            continue
        text = _json(file)
        if not isinstance(text, str) or not text.strip() or text == _FAILED:
            continue
        one = Explanation(latent, " ".join(text[:MAX_TEXT].split()), "model", method=METHOD,
                          created=file.stat().st_mtime, id=digest(METHOD, latent, text))
        for name, scorer in _SCORERS.items():
            scores = path / "scores" / name / file.name
            if scores.is_file():
                yield from _score(latent, scorer, one.id, _json(scores))
        yield one


def _parts(file: Path) -> tuple[str, int] | None:
    """Return the module and the latent in a file's name, or None if it has none."""
    match = _NAME.fullmatch(file.name)
    return (match[1] or "", int(match[2])) if match and not file.is_symlink() else None


def _json(file: Path) -> Any:
    if file.stat().st_size > untrusted_json.MAX_FILE:
        raise untrusted_json.refuse(file, "it is too large")
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise untrusted_json.refuse(file, "it is not JSON") from None


def _score(latent: int, scorer: str, explanation: str, rows: Any) -> Iterator[Score]:
    """Yield the balanced accuracy of a list of examples; an example without a prediction counts as wrong."""
    known = [row for row in rows if isinstance(row, Mapping) and isinstance(row.get("activating"), bool)] if isinstance(
        rows, list) else []
    truth = np.array([row["activating"] for row in known], dtype=bool)
    if not len(truth) or truth.all() or not truth.any():
        return
    answers = [None if row.get("prediction") is None else bool(row["prediction"]) for row in known]
    predicted = measures.right_or_wrong(truth.tolist(), answers)
    low, high = measures.balanced_interval(truth, predicted)
    yield Score(latent, scorer, measures.balanced_accuracy(truth, predicted), len(truth), explanation, low, high,
                measures.f1(truth, predicted), METHOD, details={"unparsable": sum(a is None for a in answers)})


def files(records: Iterable[Record], module: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file: the explanation of each latent that comes last.

    delphi finds the files if `module` is the name by which it hooks the SAE's module, such as layers.5.
    """
    latest = {record.latent: record for record in records if isinstance(record, Explanation)}
    for latent, one in sorted(latest.items()):
        yield f"explanations/{module}_latent{latent}.txt", json.dumps(one.text, ensure_ascii=False).encode()
