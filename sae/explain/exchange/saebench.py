"""Explanations and scores in SAEBench's results of its autointerp evaluation, in both directions.  No torch.

The JSON has `eval_result_unstructured`: for each latent its explanation and its score, the share of right decisions.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean, stdev
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
            yield Score(latent, "imported", score, _n_examples(config), one.id, model=METHOD,
                        details={"type": "share of right decisions"})
        yield one


def _n_examples(config: Any) -> int:
    """Return the number of texts that a latent is scored on; 0 if the file does not say it."""
    names = ("n_top_ex_for_scoring", "n_random_ex_for_scoring", "n_iw_sampled_ex_for_scoring")
    numbers = [untrusted_json.whole(config.get(name)) for name in names] if isinstance(config, dict) else []
    return sum(n or 0 for n in numbers)


def document(records: Iterable[Record], sae_id: str) -> dict[str, Any]:
    """Return the JSON of the explanation of each latent that comes last, with its detection score if it has one.

    It has the fields that SAEBench's own classes ask for.  The mean and the spread are NaN without any score, as
    SAEBench would compute them.
    """
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
    created = max((one.created for one in explanations.values()), default=0.0)
    release, _, name = sae_id.rpartition("/")
    return {
        "eval_type_id": _KIND,
        "eval_config": {"model_name": release, "n_latents": len(rows), "measured_by": "saescope"},
        "eval_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"saescope:{sae_id}:{_KIND}:{sorted(rows)}:{created}")),
        "datetime_epoch_millis": int(1000 * created),
        "eval_result_metrics": {_KIND: {
            "autointerp_score": fmean(values) if values else math.nan,
            "autointerp_std_dev": stdev(values) if len(values) > 1 else math.nan}},
        "eval_result_details": [], "sae_bench_commit_hash": "", "sae_lens_id": name, "sae_lens_release_id": release,
        "sae_lens_version": "", "sae_cfg_dict": {}, "eval_result_unstructured": rows}


def as_bytes(records: Iterable[Record], sae_id: str) -> bytes:
    """Return the file's content."""
    return json.dumps(document(records, sae_id), ensure_ascii=False, indent=1).encode()
