"""Tests of SAEBench's result files: their keys, what is read of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sae.errors import UserError
from sae.evaluation import saebench
from sae.evaluation.published import PublishedResult
from sae.evaluation.results import StoredResult, StoredValue

TOP = ["eval_type_id", "eval_config", "eval_id", "datetime_epoch_millis", "eval_result_metrics", "eval_result_details",
       "sae_bench_commit_hash", "sae_lens_id", "sae_lens_release_id", "sae_lens_version", "sae_cfg_dict",
       "eval_result_unstructured"]
METRICS = {
    "model_behavior_preservation": ["kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"],
    "model_performance_preservation": [
        "ce_loss_score", "ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae"],
    "reconstruction_quality": ["explained_variance", "explained_variance_legacy", "mse", "cossim"],
    "shrinkage": ["l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"],
    "sparsity": ["l0", "l1"],
    "token_stats": ["total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"],
    "misc_metrics": ["freq_over_1_percent", "freq_over_10_percent", "normalized_freq_over_1_percent",
                     "normalized_freq_over_10_percent", "average_max_encoder_cosine_sim",
                     "average_max_decoder_cosine_sim", "frac_alive"]}
DETAIL = ["index", "feature_density", "consistent_activation_heuristic", "encoder_bias", "encoder_norm",
          "encoder_decoder_cosine_sim", "max_decoder_cosine_sim", "max_encoder_cosine_sim"]
CONFIG = {"id": "demo/one", "context_length": 128}
CFG = {"architecture": "jumprelu", "d_sae": 4096,
       "metadata": {"model_name": "demo", "hook_name": "blocks.2.hook_resid_post", "training_architecture": "batchtopk",
                    "training_k": 32, "sae_lens_version": "6"}}


def core(**values: float) -> StoredResult:
    return StoredResult(
        "core", tuple(StoredValue(key, value, n=1000) for key, value in values.items()),
        {"latents": {"feature_density": [0.1, 0.2], "encoder_bias": [1.0, None]}}, text="stdlib", seeds=(3,), run="r",
        created=1.5, saescope_version="9")


def theirs(**changes: Any) -> dict[str, Any]:
    """Return a file as SAEBench writes it."""
    return {
        "eval_type_id": "core", "eval_config": {}, "datetime_epoch_millis": 1_700_000_000_000,
        "eval_result_metrics": {
            "model_behavior_preservation": {"kl_div_score": -1, "kl_div_with_sae": 0.5},
            "model_performance_preservation": {"ce_loss_with_sae": 3.5, "ce_loss_without_sae": 3.25},
            "reconstruction_quality": {"explained_variance": 0.9, "explained_variance_legacy": 0.7},
            "sparsity": {"l0": 50.5}, "token_stats": {"total_tokens_eval_reconstruction": 5},
            "misc_metrics": {"frac_alive": 0.8, "new_number": 4.0, "none": None}},
        "sae_lens_id": "blocks.3/x", "sae_lens_release_id": "release",
        "sae_cfg_dict": {"model_name": "org/Pythia-70m", "hook_name": "blocks.3.hook_resid_post", "d_sae": 16384,
                         "architecture": "standard_april_update", "k": 0},
        **changes}


def test_the_file_has_the_keys_of_saebench_in_its_order() -> None:
    content = saebench.result_json(core(l0=32.0, delta_ce=0.1, explained_variance=0.75), CONFIG, CFG)
    assert list(content) == TOP
    assert {name: list(numbers) for name, numbers in content["eval_result_metrics"].items()} == METRICS
    assert [list(one) for one in content["eval_result_details"]] == [DETAIL, DETAIL]
    assert content["eval_result_metrics"]["sparsity"] == {"l0": 32.0, "l1": None}
    assert content["eval_result_metrics"]["token_stats"]["total_tokens_eval_reconstruction"] == 1000
    assert content["eval_result_details"][1]["encoder_bias"] is None
    assert (content["sae_lens_release_id"], content["sae_lens_id"]) == ("demo", "one")
    assert content["datetime_epoch_millis"] == 1500
    assert content["eval_config"]["ablate_bos"] is False
    json.dumps(content, allow_nan=False)
    assert saebench.file_name(CONFIG) == "demo_one_eval_results.json"


def test_our_own_file_is_read_back() -> None:
    content = saebench.result_json(core(l0=32.0, explained_variance=0.75, cossim=0.9), CONFIG, CFG)
    (found,) = saebench.read_content(json.loads(json.dumps(content)), "x.json")
    assert found == PublishedResult(
        "demo", "demo/one", "core", "saescope 9", "blocks.2.hook_resid_post", "batch_topk", 4096, 32,
        {"l0": 32.0, "explained_variance": 0.75, "cossim": 0.9, "fvu": 0.25}, 1.5)


def test_an_sae_without_the_measure_is_refused() -> None:
    with pytest.raises(UserError, match="demo/one was not measured by core"):
        saebench.result_json(StoredResult("core"), CONFIG, {})


def test_their_numbers_get_our_keys_where_the_formula_is_the_same() -> None:
    (found,) = saebench.read_content(theirs(), "x.json")
    assert (found.model, found.name, found.source) == ("pythia-70m", "release/blocks.3/x", "SAEBench")
    assert (found.architecture, found.n_latents, found.k) == ("relu", 16384, None)
    assert found.values == {
        "kl_sae": 0.5, "ce_sae": 3.5, "ce_clean": 3.25, "delta_ce": 0.25, "saebench_explained_variance": 0.9,
        "explained_variance_legacy": 0.7, "l0": 50.5, "alive_share": 0.8, "new_number": 4.0}


def test_tasks_and_letters_go_out() -> None:
    scores = {"accuracy": 0.5, "auc": 0.6, "f1": 0.7}
    probing = StoredResult("probing", (StoredValue("sparse_5_auc", 0.75), StoredValue("raw_f1", 0.9)), {
        "tasks": [{"task": "t", "raw": scores, "sparse": {"1": scores}}]})
    content = saebench.result_json(probing, CONFIG, CFG)
    assert content["eval_type_id"] == "sparse_probing_sae_probes"
    assert content["eval_result_metrics"]["sae"]["sae_top_5_test_auc"] == 0.75
    assert content["eval_result_metrics"]["llm"] == {
        "llm_test_accuracy": None, "llm_test_auc": None, "llm_test_f1": 0.9}
    assert content["eval_result_details"][0]["sae_top_1_test_f1"] == 0.7
    assert saebench.read_content(content, "x")[0].values == {"sparse_5_auc": 0.75, "raw_f1": 0.9}

    letters = [{"first_letter": "a", "mean_absorption_fraction": 0.25, "full_absorption_rate": 0.0,
                "num_split_features": 2, "probe_f1": 0.9},
               {"first_letter": "b", "mean_absorption_fraction": 0.75, "full_absorption_rate": 0.0,
                "num_split_features": 2}]
    absorption = StoredResult("absorption", (StoredValue("mean_absorption_fraction_score", 0.5),), {"letters": letters})
    content = saebench.result_json(absorption, CONFIG, {})
    assert content["eval_type_id"] == "absorption_first_letter"
    mean = content["eval_result_metrics"]["mean"]
    assert mean["std_dev_absorption_fraction_score"] == pytest.approx(0.125**0.5)
    assert mean["mean_full_absorption_score"] is None
    assert list(content["eval_result_details"][0]) == [
        "first_letter", "mean_absorption_fraction", "full_absorption_rate", "num_probe_true_positives",
        "num_split_features"]


def test_a_measure_that_saebench_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="measure: n2g is none of those"):
        saebench.result_json(StoredResult("n2g", (StoredValue("a", 1.0),)), CONFIG, {})


def test_other_types_and_wrapped_files_are_read(tmp_path: Path) -> None:
    probing = theirs(eval_type_id="sparse_probing", eval_result_metrics={"sae": {"sae_top_1_test_accuracy": 0.75}})
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a": probing, "b": theirs()}))
    found = saebench.read_file(path)
    assert [one.kind for one in found] == ["sparse_probing", "core"]
    assert found[0].values == {"sae_top_1_test_accuracy": 0.75}


@pytest.mark.parametrize(("content", "said"), [
    ([], "holds no object"), ({}, "eval_type_id is missing"), ({"a": {"b": 1}}, "eval_type_id is missing"),
    (theirs(sae_cfg_dict={}), "model_name is missing"), (theirs(eval_result_metrics=[]), "metrics is missing"),
    (theirs(eval_result_metrics={"a": {"b": "c"}, "d": 3}), "no number"),
    (theirs(sae_cfg_dict={"metadata": 3}), "model_name is missing")])
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=said) as caught:
        saebench.read_file(path)
    assert "x.json" in str(caught.value)
    assert caught.value.field == "file"


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        saebench.read_file(tmp_path / "none")
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not JSON"):
        saebench.read_file(tmp_path / "x")


def test_hostile_numbers_and_sizes_are_refused_in_one_line() -> None:
    huge = theirs(eval_result_metrics={"sparsity": {"l0": 10**400, "l1": 2.0}})
    assert saebench.read_content(huge, "f")[0].values == {"l1": 2.0}
    many = theirs(eval_result_metrics={"a": {f"n{i}": i for i in range(501)}})
    with pytest.raises(UserError, match="f is no result of SAEBench: eval_result_metrics holds 501 numbers"):
        saebench.read_content(many, "f")
    with pytest.raises(UserError, match="f holds 1001 results; at most 1000 are read"):
        saebench.read_content({f"r{i}": theirs() for i in range(1001)}, "f")
