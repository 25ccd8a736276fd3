"""Names, folders and facts that are recognised, asked for, or refused with a reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae.errors import UserError
from sae.formats.detect import find, weight_files
from sae.formats.foreign_names import model_name, site
from sae.formats.readers.registry import load, read
from tests import FIXTURES

SAES = FIXTURES / "saes"
D, L = 12, 40


@pytest.mark.parametrize(("name", "reads", "hook"), [
    ("blocks.3.hook_resid_pre", False, "blocks.3.hook_resid_pre"), ("layers.10", False, "blocks.10.hook_resid_post"),
    ("transformer.h.3", False, "blocks.3.hook_resid_post"),
    ("model.layers.7.output", False, "blocks.7.hook_resid_post"),
    ("layers.3.mlp", False, "blocks.3.hook_mlp_out"), ("layers.3.mlp", True, "blocks.3.mlp.hook_in"),
    ("gpt_neox.layers.2.attention", False, "blocks.2.hook_attn_out"),
    ("model.layers.7.self_attn.o_proj.input", False, "blocks.7.attn.hook_z"),
    ("model.layers.7.pre_feedforward_layernorm.output", False, "blocks.7.mlp.hook_in"),
    ("model.layers.7.post_feedforward_layernorm.output", False, "blocks.7.hook_mlp_out"),
    ("resid_post_layer_3", False, "blocks.3.hook_resid_post"), ("mlp_out_layer_4", False, "blocks.4.hook_mlp_out"),
    ("hook_embed", False, ""), ("", False, ""), ("layers.x", False, ""), ("../../etc", False, "")])
def test_sites_have_many_names(name: str, reads: bool, hook: str) -> None:
    assert site(name, reads=reads) == hook


@pytest.mark.parametrize(("name", "means"), [
    ("gpt2-small", "openai-community/gpt2"), ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
    ("gemma-2-2b", "google/gemma-2-2b"), ("me/model", "me/model"), ("demo", "demo"), ("", "")])
def test_models_have_many_names(name: str, means: str) -> None:
    assert model_name(name) == means


@pytest.mark.parametrize(("names", "weights"), [
    (["cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "trainer_state.pt"], ["sae_weights.safetensors"]),
    (["t/ae.pt", "t/config.json", "t/checkpoints/ae_10.pt", "t/checkpoints/ae_20.pt"], ["t/ae.pt"]),
    (["a/sae.safetensors", "b/sae.safetensors", "optimizer_0.pt", "state.pt", "rank_0_state.pt"],
     ["a/sae.safetensors", "b/sae.safetensors"]),
    (["README.md"], [])])
def test_only_weight_files_are_saes(names: list[str], weights: list[str]) -> None:
    assert weight_files(names) == weights


def test_one_of_many_has_to_be_named() -> None:
    with pytest.raises(UserError, match=r"^source: holds \d+ SAEs; name one of them: "):
        find(SAES / "dictionary_learning")


@pytest.mark.parametrize(("case", "format_", "facts"), [
    ("saelens/jumprelu", "SAELens 6.54.12", {"model": "openai-community/gpt2", "hook": "blocks.5.hook_resid_pre",
                                            "bos": True, "context_length": 128}),
    ("saelens/transcoder", "SAELens 6.54.12", {"out_hook": "blocks.5.hook_mlp_out"}),
    ("saelens/v4_topk", "SAELens before 6 (no version)", {"hook": "blocks.8.hook_resid_pre", "claims": {"l0": 5.0}}),
    ("sparsify/transcoder", "sparsify", {"model": "EleutherAI/pythia-70m", "hook": "blocks.3.mlp.hook_in",
                                         "out_hook": "blocks.3.hook_mlp_out", "bos": False, "context_length": 2048}),
    ("dictionary_learning/jump_relu", "dictionary_learning", {
        "model": "EleutherAI/pythia-70m-deduped", "hook": "blocks.3.hook_resid_post", "bos": None,
        "claims": {"l0": 20.0}, "trained_as": "JumpReluAutoEncoder"}),
    ("gemma_scope/gemma-scope-2b-pt-res", "Gemma Scope", {
        "model": "google/gemma-2-2b", "hook": "blocks.20.hook_resid_post", "claims": {"l0": 12.0}, "bos": True}),
    ("gemma_scope_2/transcoder", "Gemma Scope 2", {
        "model": "google/gemma-3-1b-pt", "hook": "blocks.7.mlp.hook_in", "out_hook": "blocks.7.hook_mlp_out"}),
    ("openai/resid_post_mlp_v5_32k_layer_8.pt", "OpenAI", {"hook": "blocks.8.hook_resid_post", "bos": False,
                                                          "context_length": 64})])
def test_formats_and_what_they_say(case: str, format_: str, facts: dict[str, Any]) -> None:
    foreign = read(SAES / case)
    assert foreign.format == format_
    for name, value in facts.items():
        assert getattr(foreign, name) == value, name


def test_what_is_given_wins() -> None:
    foreign = read(SAES / "saelens" / "jumprelu", {
        "model": "demo", "hook": "blocks.1.hook_resid_post", "bos": "no", "normalize": "centre", "k": 0})
    assert (foreign.model, foreign.hook, foreign.bos) == ("demo", "blocks.1.hook_resid_post", False)
    assert foreign.weights.normalize == "centre"
    assert not foreign.asks


def edited(tmp_path: Path, case: str, **changes: Any) -> Path:
    folder = tmp_path / "sae"
    shutil.copytree(SAES / case, folder)
    config = json.loads((folder / "cfg.json").read_text())
    metadata = changes.pop("metadata", {})
    config = {**config, **changes}
    if metadata:
        config["metadata"] = {**config["metadata"], **metadata}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("case", "changes", "reason"), [
    ("saelens/topk", {"architecture": "abstopk"}, "its activations can be negative"),
    ("saelens/topk", {"architecture": "matching_pursuit"}, "encodes in a loop over residuals"),
    ("saelens/topk", {"architecture": "temporal"}, "attention over positions"),
    ("saelens/topk", {"metadata": {"hook_head_index": 3}}, "reads one attention head"),
    ("saelens/transcoder", {"normalize_activations": "layer_norm"}, "normalised token by token"),
    ("saelens/transcoder", {"apply_b_dec_to_input": True}, "which SAELens itself refuses"),
    ("saelens/standard", {"normalize_activations": "covariance_whitening"}, "is not next to it"),
    ("saelens/v4_topk", {"activation_fn_str": "tanh-relu"}, "activation_fn_str 'tanh-relu'"),
    ("saelens/v3_standard", {"activation_fn_str": "topk", "activation_fn_kwargs": {}}, "has no k"),
    ("saelens/topk", {"k": None}, "k is None"),
    ("sparsify/groupmax/layers.3", {}, "one latent of each group"),
    ("sparsify/topk/layers.3", {"signed": True}, "signed latents cannot be expressed")])
def test_what_no_artefact_can_hold_is_refused_with_the_reason(
    tmp_path: Path, case: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError) as raised:
        read(edited(tmp_path, case, **changes))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_scale_that_the_file_does_not_hold_is_asked_for(tmp_path: Path) -> None:
    folder = edited(tmp_path, "saelens/standard", normalize_activations="expected_average_only_in")
    assert "input_scale" in read(folder).asks
    given = read(folder, {"input_scale": 0.5})
    assert "input_scale" not in given.asks
    assert given.weights.input_scale == 0.5


def test_centred_writing_weights_are_a_normalisation(tmp_path: Path) -> None:
    folder = edited(tmp_path, "saelens/standard",
                    metadata={"model_from_pretrained_kwargs": {"center_writing_weights": True}})
    sae, x_BD = load(folder), torch.randn(5, D)
    assert sae.config["normalize"] == "centre"
    # The model never sees the mean; the SAE neither sees nor changes it.
    torch.testing.assert_close(sae.reconstruct(x_BD + 7), sae.reconstruct(x_BD) + 7)


def test_a_batchtopk_saved_as_jumprelu_is_one_again(tmp_path: Path) -> None:
    folder = edited(tmp_path, "saelens/jumprelu", metadata={
        "training_architecture": "batchtopk", "training_architecture_details": {"k": 9}})
    assert read(folder).weights.architecture == "jumprelu"  # its thresholds differ
    tensors = {name: torch.randn(size) for name, size in (("W_enc", (D, L)), ("b_enc", (L,)), ("b_dec", (D,)))}
    decoder_LD = torch.nn.functional.normalize(torch.randn(L, D))
    save_file({**tensors, "W_dec": decoder_LD, "threshold": torch.full((L,), 0.5)}, folder / "sae_weights.safetensors")
    sae = load(folder)
    assert (sae.config["architecture"], sae.k, sae.sparsity.threshold) == ("batch_topk", 9, 0.5)


@pytest.mark.parametrize("factor", [None, False, True])
def test_a_finetuning_factor_is_applied_or_refused(tmp_path: Path, factor: bool | None) -> None:
    folder = edited(tmp_path, "saelens/v3_standard",
                    **({} if factor is None else {"finetuning_scaling_factor": factor}))
    tensors = load_file(folder / "sae_weights.safetensors")
    save_file({**tensors, "scaling_factor": torch.full((L,), 2.0)}, folder / "sae_weights.safetensors")
    if factor:
        torch.testing.assert_close(read(folder).weights.W_dec_LD, 2 * tensors["W_dec"])
    else:
        with pytest.raises(UserError, match="scaling_factor"):
            read(folder)
    save_file({**tensors, "scaling_factor": torch.ones(L)}, folder / "sae_weights.safetensors")
    torch.testing.assert_close(read(folder).weights.W_dec_LD, tensors["W_dec"])


# ---- bare tensors


def random(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(("tensors", "given", "architecture", "asks"), [
    (random(encoder__weight=(L, D), encoder__bias=(L,), decoder__weight=(D, L), bias=(D,)), {}, "relu", set()),
    (random(encoder__weight=(L, D), encoder__bias=(L,), decoder__weight=(D, L), decoder__bias=(D,)), {}, "relu", set()),
    (random(encoder_linear__weight=(L, D), encoder_linear__bias=(L,), decoder_linear__weight=(D, L),
            decoder_linear__bias=(D,)), {}, "relu", set()),
    (random(encoder__weight=(L, D), encoder__bias=(L,), W_dec=(L, D), b_dec=(D,)), {}, "topk", {"k"}),
    (random(encoder__weight=(L, D), encoder__bias=(L,), W_dec=(L, D), b_dec=(D,)), {"k": 3}, "topk", set()),
    (random(W_enc=(D, L), W_dec=(L, D), b_enc=(L,), b_dec=(D,), threshold=(L,)), {"subtract_b_dec": "no"}, "jumprelu",
     set()),
    (random(W_enc=(L, D), W_dec=(D, L), b_enc=(L,), b_dec=(D,)), {}, "relu", {"architecture", "subtract_b_dec"}),
    (random(W_enc=(L, D), W_dec=(D, L), b_enc=(L,), b_dec=(D,)), {"architecture": "topk"}, "topk",
     {"k", "subtract_b_dec"}),
    (random(W_enc=(D, L), W_dec=(L, D), b_gate=(L,), b_mag=(L,), r_mag=(L,), b_dec=(D,)), {}, "gated",
     {"subtract_b_dec"}),
    (random(W_enc=(L, D), W_dec=(D, L), b_enc=(L,), b_dec=(D,), W_skip=(D, D)), {"architecture": "relu"}, "relu",
     {"out_hook"}),
    ({**random(encoder__weight=(L, D), encoder__bias=(L,), decoder__weight=(D, L), b_dec=(D,)),
      "k": torch.tensor(4.0), "threshold": torch.tensor(0.5)}, {}, "topk", {"architecture"}),
    ({**random(encoder__weight=(L, D), encoder__bias=(L,), decoder__weight=(D, L), b_dec=(D,)),
      "k": torch.tensor(4.0), "threshold": torch.tensor(0.5)}, {"architecture": "batch_topk"}, "batch_topk", set()),
    (random(module__encoder__weight=(L, D), module__encoder__bias=(L,), module__decoder__weight=(D, L),
            module__bias=(D,)), {}, "relu", set()),
])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_bare_tensors_are_known_by_name_and_shape(
    tmp_path: Path, tensors: dict[str, torch.Tensor], given: dict[str, Any], architecture: str, asks: set[str],
    suffix: str,
) -> None:
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors, path)
    foreign = read(path, given)
    assert foreign.weights.architecture == architecture
    assert set(foreign.asks) == {"model", "hook", "bos"} | asks
    assert foreign.weights.W_enc_LD.shape == (L, D)
    assert foreign.weights.W_dec_LD.shape == (L, D)


def test_a_cross_layer_transcoder_is_refused(tmp_path: Path) -> None:
    save_file(random(w_enc=(D, L), w_dec=(L, 3, D), b_enc=(L,), b_dec=(D,), threshold=(L,)),
              tmp_path / "params.safetensors")
    with pytest.raises(UserError, match="cross-layer"):
        read(tmp_path)


def test_our_own_artefact_comes_back_as_it_was(tmp_path: Path) -> None:
    sae, x_BD = load(SAES / "saelens" / "topk"), torch.randn(7, D)
    sae.config["site"]["hook"] = "blocks.0.hook_resid_post"
    sae.save(tmp_path / "one")
    again = load(tmp_path / "one")
    torch.testing.assert_close(again.reconstruct(x_BD), sae.reconstruct(x_BD))
    assert again.config["imported"]["format"].startswith("saescope")


# ---- thresholds that a file lacks, settings that it contradicts


def batch_topk(folder: Path, **more: torch.Tensor) -> Path:
    """Write a BatchTopK of dictionary_learning, with or without a threshold."""
    folder.mkdir()
    torch.save({**random(encoder__weight=(L, D), encoder__bias=(L,), decoder__weight=(D, L), b_dec=(D,)),
                "k": torch.tensor(4), **more}, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {
        "dict_class": "BatchTopKSAE", "activation_dim": D, "dict_size": L, "k": 4, "lm_name": "demo",
        "submodule_name": "resid_post_layer_2"}}))
    return folder


def test_a_batchtopk_without_threshold_is_calibrated_or_given_one(tmp_path: Path) -> None:
    folder = batch_topk(tmp_path / "ae")
    assert read(folder).calibrate
    given = read(folder, {"threshold": 0.7})
    assert not given.calibrate
    assert given.weights.threshold == pytest.approx(0.7)
    assert not read(batch_topk(tmp_path / "with", threshold=torch.tensor(0.3))).calibrate
    bare = tmp_path / "bare.pt"
    torch.save(random(W_enc=(D, L), W_dec=(L, D), b_enc=(L,), b_dec=(D,)), bare)
    foreign = read(bare, {"architecture": "batch_topk", "k": 4, "subtract_b_dec": "yes"})
    assert (foreign.weights.architecture, foreign.weights.k, foreign.calibrate) == ("batch_topk", 4, True)


def test_a_training_checkpoint_of_saelens_without_threshold_is_calibrated(tmp_path: Path) -> None:
    folder = edited(tmp_path, "saelens/topk", architecture="batchtopk", k=4)
    foreign = read(folder)
    assert (foreign.weights.architecture, foreign.weights.k, foreign.calibrate) == ("batch_topk", 4, True)


@pytest.mark.parametrize(("case", "given", "says"), [
    ("saelens/jumprelu", {"architecture": "topk"}, "architecture: topk is given, but sae_weights.safetensors"),
    ("saelens/topk", {"k": 3}, "k: 3 is given, but sae_weights.safetensors"),
    ("saelens/standard", {"k": 3}, "states none: relu has no k"),
    ("saelens/topk", {"threshold": 0.5}, "threshold: the one threshold of a BatchTopK is given")])
def test_a_setting_that_contradicts_the_file_is_refused(case: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(SAES / case, given)
    assert says in str(caught.value)
    assert caught.value.field in given


def test_two_linear_layers_with_thresholds_are_a_jumprelu(tmp_path: Path) -> None:
    theta_L = torch.rand(L)
    t = random(encoder__weight=(L, D), encoder__bias=(L,), decoder__weight=(D, L), decoder__bias=(D,))
    save_file({**t, "log_jumprelu_threshold": theta_L.log(), "extra": torch.ones(3)}, tmp_path / "a.safetensors")
    foreign = read(tmp_path / "a.safetensors")
    assert foreign.weights.architecture == "jumprelu"
    torch.testing.assert_close(foreign.weights.threshold, theta_L)
    assert "tensors that were not used: extra" in foreign.notes


@pytest.mark.parametrize(("hook", "asked"), [("blocks.0.hook_pos_embed", True), ("blocks.3.hook_resid_pre", False)])
def test_a_site_that_is_not_here_is_named(tmp_path: Path, hook: str, asked: bool) -> None:
    foreign = read(edited(tmp_path, "saelens/standard", metadata={"hook_name": hook}))
    assert ("hook" in foreign.asks) is asked
    assert not asked or f"the file names {hook!r}, which is no site here" in foreign.asks["hook"]
