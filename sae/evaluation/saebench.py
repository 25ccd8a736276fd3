"""SAEBench's result JSON: our measures in its form, and its files as published results.  No torch.

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
import statistics
import uuid
from collections.abc import Mapping, Sequence
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
_PROBING: dict[str, tuple[str, str]] = {
    **{f"raw_{score}": ("llm", f"llm_test_{score}") for score in ("accuracy", "auc", "f1")},
    **{f"sparse_{k}_{score}": ("sae", f"sae_top_{k}_test_{score}") for k in (1, 2, 5, 16)
       for score in ("accuracy", "auc", "f1")}}
_ABSORPTION: dict[str, tuple[str, str]] = {
    key: ("mean", key) for key in (
        "mean_absorption_fraction_score", "mean_full_absorption_score", "mean_num_split_features",
        "std_dev_absorption_fraction_score", "std_dev_full_absorption_score", "std_dev_num_split_features")}
_META: dict[str, tuple[str, str]] = {
    "decoder_fraction_variance_explained": ("meta_structure", "decoder_fraction_variance_explained"),
    "train_time_seconds": ("meta_structure", "train_time_seconds"),
    "final_reconstruction_mse": ("meta_structure", "final_reconstruction_mse")}
# Our measure -> SAEBench's type of evaluation, and the places of the numbers.
KINDS: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "core": ("core", CORE), "probing": ("sparse_probing_sae_probes", _PROBING),
    "absorption": ("absorption_first_letter", _ABSORPTION),
    "meta_sae": ("meta_structure_decoder_variance", _META)}
DETAILS = ("feature_density", "consistent_activation_heuristic", "encoder_bias", "encoder_norm",
           "encoder_decoder_cosine_sim", "max_decoder_cosine_sim", "max_encoder_cosine_sim")
THEIR_VARIANCE = "saebench_explained_variance"  # its own formula, which is not ours
_OURS = {kind: {place: key for key, place in places.items()} for kind, places in KINDS.values()}
_MAX_BYTES = 200_000_000
_MAX_RESULTS, _MAX_NUMBERS = 1_000, 500  # of a file, and of a result
_SCORES = ("accuracy", "auc", "f1")
_DEFINITIONS = {
    "explained_variance": "1 - sum|x - x_hat|^2 / sum|x - mean|^2 over all tokens, sums in float64",
    "kl": "log-softmax; BOS is never ablated and never averaged",
    "ablation": "zero, except at BOS"}
_CORE_CONFIG = {"exclude_special_tokens_from_reconstruction": True, "ablate_bos": False, "definitions": _DEFINITIONS}


def result_json(result: StoredResult, config: Mapping[str, Any], saelens: Mapping[str, Any]) -> dict[str, Any]:
    """Return a measure of an SAE in SAEBench's form.

    `config` is the SAE's `sae.json`, `saelens` its configuration as SAELens writes it, or {} if SAELens cannot.
    Raises UserError (field `measure`) if SAEBench has no such measure or the SAE was not measured by it.
    """
    name = result.measure
    if name not in KINDS:
        raise UserError(f"measure: {name} is none of those that SAEBench has: {', '.join(KINDS)}", "measure")
    if not result.values:
        raise UserError(f"measure: {config['id']} was not measured by {name}; saescope evaluate --sae {config['id']} "
                        f"--measures {name}", "measure")
    kind, places = KINDS[name]
    numbers = {value.key: value.value for value in result.values} | _further(result)
    metrics: dict[str, dict[str, float | None]] = {}
    for key, (category, theirs) in places.items():
        metrics.setdefault(category, {})[theirs] = numbers.get(key)
    release, which = str(config["id"]).split("/", 1)
    return {
        "eval_type_id": kind,
        "eval_config": {
            "dataset": result.text, "context_size": config.get("context_length"), "seed": (result.seeds or (0,))[0],
            "measured_by": f"saescope {result.saescope_version}", **(_CORE_CONFIG if name == "core" else {})},
        "eval_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"saescope:{config['id']}:{name}:{result.run}:{result.created}")),
        "datetime_epoch_millis": int(1000 * result.created),
        "eval_result_metrics": metrics,
        "eval_result_details": _details(result),
        "sae_bench_commit_hash": "",
        "sae_lens_id": which,
        "sae_lens_release_id": release,
        "sae_lens_version": str((saelens.get("metadata") or {}).get("sae_lens_version", "")),
        "sae_cfg_dict": dict(saelens),
        "eval_result_unstructured": None,
    }


def _further(result: StoredResult) -> dict[str, float | None]:
    """Return numbers of the form that are no values of the measure: sizes, and spreads over letters."""
    sizes = {value.key: value.n for value in result.values}
    if result.measure == "core":
        return {"tokens_reconstruction": sizes.get("delta_ce"), "tokens_sparsity": sizes.get("l0")}
    if result.measure != "absorption":
        return {}
    columns = {"absorption_fraction_score": "mean_absorption_fraction", "full_absorption_score": "full_absorption_rate",
               "num_split_features": "num_split_features"}
    letters = result.detail.get("letters") or []
    return {f"std_dev_{key}": _spread([row[name] for row in letters]) for key, name in columns.items()}


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _details(result: StoredResult) -> list[dict[str, Any]]:
    """Return the rows of the measure: latents, tasks or letters."""
    if result.measure == "core":
        columns = result.detail.get("latents") or {}
        n_latents = max((len(column) for column in columns.values()), default=0)
        return [{"index": i, **{name: columns[name][i] if name in columns else None for name in DETAILS}}
                for i in range(n_latents)]
    if result.measure == "probing":
        return [{"dataset_name": row["task"], **{f"llm_test_{name}": row["raw"][name] for name in _SCORES},
                 **{f"sae_top_{k}_test_{name}": scores[name] for k, scores in row["sparse"].items()
                    for name in _SCORES}} for row in result.detail.get("tasks") or []]
    return [{name: row.get(name) for name in (
        "first_letter", "mean_absorption_fraction", "full_absorption_rate", "num_probe_true_positives",
        "num_split_features")} for row in result.detail.get("letters") or []]


def file_name(config: Mapping[str, Any], measure: str = "core") -> str:
    """Return the name that SAEBench gives the file, which it keeps in a folder for each type of evaluation."""
    kind = "" if measure == "core" else f"_{KINDS[measure][0]}"
    return f"{str(config['id']).replace('/', '_')}{kind}_eval_results.json"


# ---- reading


def read_file(path: Path) -> list[PublishedResult]:
    """Return the results that a file of SAEBench holds.  Raises UserError (field `file`) for another file."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"file: {path} is larger than {_MAX_BYTES // 10**6} MB", "file")
        return read_bytes(path.read_bytes(), path.name)
    except FileNotFoundError:
        raise UserError(f"file: there is no file {path}", "file") from None
    except OSError as error:
        raise UserError(f"file: {path} cannot be read: {error.strerror}", "file") from None


def read_bytes(data: bytes, name: str) -> list[PublishedResult]:
    """Return the results in the content of a file.  Raises UserError (field `file`) that names the file."""
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"file: {name} is not JSON: {said}", "file") from None
    return read_content(content, name)


def read_content(content: Any, name: str) -> list[PublishedResult]:
    """Return the results in a JSON value: one result, or an object of results by their release.

    Raises UserError (field `file`), which says what is missing.
    """
    if isinstance(content, dict) and "eval_type_id" not in content:
        inner = [one for one in content.values() if isinstance(one, dict) and "eval_type_id" in one]
        if len(inner) > _MAX_RESULTS:
            raise UserError(f"file: {name} holds {len(inner)} results; at most {_MAX_RESULTS} are read", "file")
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
    if len(values) > _MAX_NUMBERS:
        raise fault(f"eval_result_metrics holds {len(values)} numbers, more than {_MAX_NUMBERS}")
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
    is_core, ours = content["eval_type_id"] == "core", bool(_is_ours(content))
    for category, numbers in content["eval_result_metrics"].items():
        for name, number in (numbers.items() if isinstance(numbers, dict) else ()):
            value = _number(number)
            if value is None or (is_core and value == -1 and "kl" in name):  # SAEBench's mark of a KL that overflowed
                continue
            key = _OURS.get(str(content["eval_type_id"]), {}).get((category, name), str(name)[:80])
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
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and 0 < number < 2**53 and number == int(number) else None
