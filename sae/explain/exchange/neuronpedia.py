"""Explanations in the JSONL of Neuronpedia's public dumps, in both directions.  No torch.

A line has modelId, layer (the source, such as "6-res-jb"), index, description, authorId, typeName,
explanationModelName, notes and createdAt.  Type and model are kept.  Lines that are written have an author always, as
Neuronpedia's table needs one, and the source a second time as `source`, which Neuronpedia's Python client reads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sae.errors import UserError
from sae.explain.records import MAX_TEXT, RULE_METHOD, Explanation, Record, Score, digest
from sae.formats import untrusted_json
from sae.formats.foreign_names import CREATOR


def files_in(path: Path) -> list[Path]:
    """Return the files of explanations at `path`: itself, or the batches in it or in its folder `explanations`."""
    if path.is_file():
        return [path]
    found = [p for folder in (path, path / "explanations") for p in folder.glob("*.jsonl*")
             if p.name.endswith((".jsonl", ".jsonl.gz")) and p.is_file() and not p.is_symlink()]
    return sorted(found)


def read(path: Path, source: str = "", check: Callable[[int], None] = lambda n: None) -> Iterator[Record]:
    """Yield the explanations of one source with their scores.

    Raises UserError (field `source`) if the files are damaged, or have several sources and none of them is named.
    """
    seen: set[str] = set()
    for file in files_in(path):
        for row in untrusted_json.lines(file, check):
            layer, latent = untrusted_json.text(row.get("layer")), untrusted_json.whole(row.get("index"))
            if source and layer != source:
                continue
            seen.add(layer)
            if len(seen) > 1:
                raise UserError(f"source: the file has several sources ({', '.join(sorted(seen))}, …); name one of "
                                "them", "source")
            if latent is not None and untrusted_json.text(row.get("description")).strip():
                yield from _records(row, latent)


def _records(row: Mapping[str, Any], latent: int) -> Iterator[Record]:
    text = " ".join(untrusted_json.text(row.get("description"), MAX_TEXT).split())
    author, method, model = (untrusted_json.text(row.get(name), 100)
                             for name in ("authorId", "typeName", "explanationModelName"))
    kind = "rule" if method == RULE_METHOD else "model" if method or model else "person"
    number = untrusted_json.text(row.get("id"), 100)
    one = Explanation(
        latent, text, kind, "" if author == CREATOR else author, method, model,
        created=_moment(row.get("createdAt")), id=digest("neuronpedia", number or text, latent, method, model))
    for score in row.get("scores") or ():
        if isinstance(score, Mapping) and (value := untrusted_json.number(score.get("value"))) is not None:
            name = untrusted_json.text(score.get("explanationScoreTypeName"), 40) or "imported"
            yield Score(latent, "imported", value, 0, one.id, model=name, details={"type": name})
    yield one


def _moment(value: Any) -> float:
    try:
        return datetime.fromisoformat(str(value).replace("Z", "+00:00").replace(" ", "T", 1)).timestamp()
    except ValueError:
        return time.time()


def lines(records: Iterable[Record], model: str, source: str) -> Iterator[bytes]:
    """Yield one line for each explanation; its best known scores are in its notes."""
    scores: dict[str, list[Score]] = {}
    explanations = []
    for record in records:
        if isinstance(record, Explanation):
            explanations.append(record)
        elif record.explanation:
            scores.setdefault(record.explanation, []).append(record)
    for one in sorted(explanations, key=lambda one: one.latent):
        notes = ", ".join(f"{score.scorer} {score.value:.3f}" for score in scores.get(one.id, []))
        yield json.dumps({
            "id": one.id, "modelId": model, "layer": source, "index": str(one.latent), "description": one.text,
            "authorId": one.author or CREATOR, "triggeredById": None, "typeName": one.method or None,
            "explanationModelName": one.model or None, "notes": notes or None,
            "createdAt": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(one.created)), "embedding": None,
            "source": source,
        }, ensure_ascii=False).encode() + b"\n"
