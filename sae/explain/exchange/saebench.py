"""Explanations and scores in SAEBench's results of its autointerp evaluation, in both directions.  No torch.

The JSON has `eval_result_unstructured`: for each latent its explanation and its score, the share of right decisions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from sae.errors import UserError
from sae.explain.records import MAX_TEXT, Explanation, Record, Score, digest
from sae.formats import untrusted_json

METHOD = "saebench"
_KIND = "autointerp"


def is_saebench(path: Path) -> bool:
    """Return whether the file is a result of this evaluation, by its first bytes."""
    if not path.is_file() or path.suffix != ".json":
        return False
    with open(path, "rb") as file:
        return b"autointerp" in file.read(20_000)


def read(path: Path) -> Iterator[Record]:
    """Yield explanations, each after its score.  Raises UserError (field `source`) if there are none."""
    content = untrusted_json.document(path)
    rows = content.get("eval_result_unstructured")
    found = list(rows.items()) if isinstance(rows, dict) else list(enumerate(rows)) if isinstance(rows, list) else []
    if not found:
        raise UserError(f"source: {path.name} has no eval_result_unstructured with explanations", "source")
    config = content.get("eval_config")
    model = untrusted_json.text(config.get("llm_judge_model"), 100) if isinstance(config, dict) else ""
    for key, row in found:
        if not isinstance(row, Mapping):
            continue
        latent = untrusted_json.whole(row.get("latent", key))
        text = " ".join(untrusted_json.text(row.get("explanation"), MAX_TEXT).split())
        if latent is None or not text:
            continue
        one = Explanation(latent, text, "model", method=METHOD, model=model, created=path.stat().st_mtime,
                          id=digest(METHOD, latent, text, model))
        score = untrusted_json.number(row.get("score"))
        if score is not None:
            predictions = row.get("predictions")
            yield Score(latent, "imported", score, len(predictions) if isinstance(predictions, list) else 0, one.id,
                        model=METHOD, details={"type": "share of right decisions"})
        yield one


def document(records: Iterable[Record], sae_id: str, hook: str) -> dict[str, Any]:
    """Return the JSON of the explanation of each latent that comes last, with its detection score if it has one."""
    explanations: dict[int, Explanation] = {}
    scores: dict[str, float] = {}
    for record in records:
        if isinstance(record, Explanation):
            explanations[record.latent] = record
        elif record.scorer in ("detection", "imported"):
            scores[record.explanation] = record.value
    rows: dict[str, dict[str, Any]] = {}
    for latent, one in sorted(explanations.items()):
        rows[str(latent)] = {"latent": latent, "explanation": one.text,
                             **({"score": scores[one.id]} if one.id in scores else {})}
    values = [row["score"] for row in rows.values() if "score" in row]
    return {
        "eval_type_id": _KIND, "eval_config": {}, "sae_lens_id": sae_id, "sae_lens_release_id": None,
        "eval_result_metrics": {_KIND: {
            "autointerp_score": fmean(values) if values else None,
            "autointerp_std_dev": pstdev(values) if values else None}},
        "eval_result_unstructured": rows, "hook": hook}


def as_bytes(records: Iterable[Record], sae_id: str, hook: str) -> bytes:
    """Return the file's content."""
    return json.dumps(document(records, sae_id, hook), ensure_ascii=False, indent=1).encode()
