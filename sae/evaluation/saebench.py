"""SAEBench's result JSON: our core measure in its form, and its files as published results.  No torch.

The top level has SAEBench's keys in its order.  Numbers are under its names, but by our definitions, which
`eval_config` states where they differ:

    explained_variance   1 − Σ‖x − x̂‖² / Σ‖x − mean‖²; SAEBench subtracts a mean of squares, which flatters models whose
                         mean activation is large.  So its number is read under a key of its own
    kl_div_*             by log-softmax; SAEBench writes −1 for a KL that overflowed, which is read as missing
    ablation             never touches BOS
    mse                  is divided once by the number of tokens
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae.errors import UserError
from sae.evaluation.published import PublishedResult
from sae.evaluation.results import StoredResult
from sae.workspace.paths import slug

# Our key -> category and key of `eval_result_metrics`, in SAEBench's order.
CORE: dict[str, tuple[str, str]] = {
    "kl_recovered_zero": ("model_behavior_preservation", "kl_div_score"),
    "kl_zero": ("model_behavior_preservation", "kl_div_with_ablation"),
    "kl_sae": ("model_behavior_preservation", "kl_div_with_sae"),
    "ce_recovered_zero": ("model_performance_preservation", "ce_loss_score"),
    "ce_zero": ("model_performance_preservation", "ce_loss_with_ablation"),
    "ce_sae": ("model_performance_preservation", "ce_loss_with_sae"),
    "ce_clean": ("model_performance_preservation", "ce_loss_without_sae"),
    "explained_variance": ("reconstruction_quality", "explained_variance"),
    "explained_variance_legacy": ("reconstruction_quality", "explained_variance_legacy"),
    "mse": ("reconstruction_quality", "mse"),
    "cossim": ("reconstruction_quality", "cossim"),
    "l2_norm_in": ("shrinkage", "l2_norm_in"),
    "l2_norm_out": ("shrinkage", "l2_norm_out"),
    "l2_ratio": ("shrinkage", "l2_ratio"),
    "relative_reconstruction_bias": ("shrinkage", "relative_reconstruction_bias"),
    "l0": ("sparsity", "l0"),
    "l1": ("sparsity", "l1"),
    "tokens_reconstruction": ("token_stats", "total_tokens_eval_reconstruction"),
    "tokens_sparsity": ("token_stats", "total_tokens_eval_sparsity_variance"),
    "freq_over_1_percent": ("misc_metrics", "freq_over_1_percent"),
    "freq_over_10_percent": ("misc_metrics", "freq_over_10_percent"),
    "normalized_freq_over_1_percent": ("misc_metrics", "normalized_freq_over_1_percent"),
    "normalized_freq_over_10_percent": ("misc_metrics", "normalized_freq_over_10_percent"),
    "average_max_encoder_cosine_sim": ("misc_metrics", "average_max_encoder_cosine_sim"),
    "average_max_decoder_cosine_sim": ("misc_metrics", "average_max_decoder_cosine_sim"),
    "alive_share": ("misc_metrics", "frac_alive"),
}
DETAILS = ("feature_density", "consistent_activation_heuristic", "encoder_bias", "encoder_norm",
           "encoder_decoder_cosine_sim", "max_decoder_cosine_sim", "max_encoder_cosine_sim")
THEIR_VARIANCE = "saebench_explained_variance"  # its own formula, which is not ours
_OURS = {place: key for key, place in CORE.items()}
_KIND = "core"
_MAX_BYTES = 200_000_000
_DEFINITIONS = {
    "explained_variance": "1 - sum|x - x_hat|^2 / sum|x - mean|^2 over all tokens, sums in float64",
    "kl": "log-softmax; BOS is never ablated and never averaged",
    "ablation": "zero, except at BOS"}


def result_json(core: StoredResult, config: Mapping[str, Any], saelens: Mapping[str, Any]) -> dict[str, Any]:
    """Return the core measure of an SAE in SAEBench's form.

    `config` is the SAE's `sae.json`, `saelens` its configuration as SAELens writes it, or {} if SAELens cannot.
    Raises UserError (field `sae`) if the SAE has no core result.
    """
    if not core.values:
        raise UserError(f"sae: {config['id']} was not measured; saescope evaluate --sae {config['id']}", "sae")
    numbers = {value.key: value.value for value in core.values}
    sizes = {value.key: value.n for value in core.values}
    numbers |= {"tokens_reconstruction": sizes.get("delta_ce"), "tokens_sparsity": sizes.get("l0")}
    metrics: dict[str, dict[str, float | None]] = {}
    for key, (category, name) in CORE.items():
        metrics.setdefault(category, {})[name] = numbers.get(key)
    columns = core.detail.get("latents") or {}
    n_latents = max((len(column) for column in columns.values()), default=0)
    details = [{"index": i, **{name: columns[name][i] if name in columns else None for name in DETAILS}}
               for i in range(n_latents)]
    release, name = str(config["id"]).split("/", 1)
    return {
        "eval_type_id": _KIND,
        "eval_config": {
            "dataset": core.text, "context_size": config.get("context_length"), "seed": (core.seeds or (0,))[0],
            "exclude_special_tokens_from_reconstruction": True, "ablate_bos": False, "definitions": _DEFINITIONS,
            "measured_by": f"saescope {core.saescope_version}"},
        "eval_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"saescope:{config['id']}:{core.run}:{core.created}")),
        "datetime_epoch_millis": int(1000 * core.created),
        "eval_result_metrics": metrics,
        "eval_result_details": details,
        "sae_bench_commit_hash": "",
        "sae_lens_id": name,
        "sae_lens_release_id": release,
        "sae_lens_version": str((saelens.get("metadata") or {}).get("sae_lens_version", "")),
        "sae_cfg_dict": dict(saelens),
        "eval_result_unstructured": None,
    }


def file_name(config: Mapping[str, Any]) -> str:
    """Return the name that SAEBench gives the file."""
    return f"{str(config['id']).replace('/', '_')}_eval_results.json"


# ---- reading


def read_file(path: Path) -> list[PublishedResult]:
    """Return the results that a file of SAEBench holds.  Raises UserError (field `file`) for another file."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"file: {path} is larger than {_MAX_BYTES // 10**6} MB", "file")
        return read_content(json.loads(path.read_text(encoding="utf-8")), path.name)
    except FileNotFoundError:
        raise UserError(f"file: there is no file {path}", "file") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"file: {path} is not JSON: {error}", "file") from None


def read_content(content: Any, name: str) -> list[PublishedResult]:
    """Return the results in a JSON value: one result, or an object of results by their release.

    Raises UserError (field `file`), which says what is missing.
    """
    if isinstance(content, dict) and "eval_type_id" not in content:
        inner = [one for one in content.values() if isinstance(one, dict) and "eval_type_id" in one]
        if inner and len(inner) == len(content):
            return [_read(one, name) for one in inner]
    return [_read(content, name)]


def _read(content: Any, name: str) -> PublishedResult:
    def fault(reason: str) -> UserError:
        return UserError(f"file: {name} is no result of SAEBench: {reason}", "file")

    if not isinstance(content, dict):
        raise fault("it holds no object")
    for key, kind in (("eval_type_id", str), ("eval_result_metrics", dict), ("sae_cfg_dict", dict)):
        if not isinstance(content.get(key), kind):
            raise fault(f"{key} is missing")
    cfg = content["sae_cfg_dict"]
    inner = cfg.get("metadata")
    metadata: dict[str, Any] = inner if isinstance(inner, dict) else {}
    model = str(metadata.get("model_name") or cfg.get("model_name") or "")
    if not model:
        raise fault("sae_cfg_dict.model_name is missing")
    values = _values(content)
    if not values:
        raise fault("eval_result_metrics holds no number")
    release, which = (str(content.get(key) or "")[:150] for key in ("sae_lens_release_id", "sae_lens_id"))
    ours = _is_ours(content)
    return PublishedResult(
        model=slug(model.rpartition("/")[2]), name="/".join(part for part in (release, which) if part) or name,
        kind=str(content["eval_type_id"])[:80], source=ours or "SAEBench",
        hook=str(metadata.get("hook_name") or cfg.get("hook_name") or "")[:200],
        architecture=_architecture(cfg, metadata), n_latents=_whole(cfg.get("d_sae")),
        k=_whole(cfg.get("k") or metadata.get("training_k")), values=values,
        created=(_number(content.get("datetime_epoch_millis")) or 0.0) / 1000)


def _is_ours(content: Mapping[str, Any]) -> str:
    """Return which version of this program wrote the file; "" for another program."""
    config = content.get("eval_config")
    by = str(config.get("measured_by", "")) if isinstance(config, dict) else ""
    return by[:60] if by.startswith("saescope") else ""


def _values(content: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers under our keys where there is one, and ΔCE, which follows from two of them."""
    values: dict[str, float] = {}
    is_core, ours = content["eval_type_id"] == _KIND, bool(_is_ours(content))
    for category, numbers in content["eval_result_metrics"].items():
        for name, number in (numbers.items() if isinstance(numbers, dict) else ()):
            value = _number(number)
            if value is None or (is_core and value == -1 and "kl" in name):  # SAEBench's mark of a KL that overflowed
                continue
            key = _OURS.get((category, name), str(name)[:80]) if is_core else str(name)[:80]
            values[THEIR_VARIANCE if key == "explained_variance" and is_core and not ours else key] = value
    if is_core:
        for name in ("tokens_reconstruction", "tokens_sparsity"):
            values.pop(name, None)
        if "ce_sae" in values and "ce_clean" in values:
            values["delta_ce"] = values["ce_sae"] - values["ce_clean"]
        if ours and "explained_variance" in values:
            values["fvu"] = 1 - values["explained_variance"]
    return values


_ARCHITECTURES = {
    "batchtopk": "batch_topk", "matryoshka_batchtopk": "matryoshka", "matryoshka_batch_topk": "matryoshka",
    "standard": "relu", "standard_april_update": "relu", "p_anneal": "relu"}


def _architecture(cfg: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    name = str(metadata.get("training_architecture") or cfg.get("architecture") or "")[:40]
    return _ARCHITECTURES.get(name, name)


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and 0 < number < 2**53 and number == int(number) else None
