"""Metrics against their formulas, the calibrated θ against a sort, ΔCE against plain PyTorch hooks."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM

from sae.autoencoder.artefact import Autoencoder
from sae.data.corpus import Corpus
from sae.data.left_out import LeftOut
from sae.errors import UserError
from sae.evaluation.metrics import (
    calibrate_and_evaluate,
    calibrate_threshold,
    counted_rows,
    counted_tokens,
    cross_entropy_metrics,
    evaluate,
    held_out_contexts,
    mean_l0,
    read_and_target,
    reconstruction_metrics,
    residuals,
    sites,
)
from sae.lm.bridge import Edit, Edits, LanguageModel
from sae.lm.model_info import DEMO_PATH
from sae.lm.sites import resid_post
from tests.toys import D, ToyModel, corpus_of, toy_corpus, toy_sae

KINDS = [(a, n) for a in ("batch_topk", "topk") for n in ("none", "layer_norm")]


def noise(n_tokens: int, seed: int = 0, size: float = 1.0) -> Tensor:
    return size * torch.randn(n_tokens, D, generator=torch.Generator().manual_seed(seed)) + 0.5


# ---- FVU, L0, dead latents


@pytest.mark.parametrize(("architecture", "normalize"), KINDS)
def test_reconstruction_metrics_are_the_formulas_over_all_tokens_at_once(architecture: str, normalize: str) -> None:
    sae = toy_sae(architecture, normalize, threshold=1.0)
    batches = [noise(n, seed, 1.0 + seed) for seed, n in enumerate((7, 1, 30))]
    metrics = reconstruction_metrics(sae, iter(batches))
    x_ND = torch.cat(batches)
    dense_NL = torch.zeros(38, sae.n_latents, dtype=torch.float64)
    codes = sae.codes(x_ND)
    dense_NL[codes.token_N, codes.latent_N] = codes.value_N.double()
    scale_N1, shift_N1 = torch.ones(38, 1), torch.zeros(38, 1)
    if normalize == "layer_norm":
        scale_N1, shift_N1 = x_ND.std(dim=1, keepdim=True) + 1e-5, x_ND.mean(dim=1, keepdim=True)
    x_hat_ND = (dense_NL @ sae.W_dec_LD.double() + sae.b_dec_D) * scale_N1 + shift_N1
    x_ND = x_ND.double()
    fvu = (x_ND - x_hat_ND).square().sum() / (x_ND - x_ND.mean(dim=0)).square().sum()
    l0_N = (dense_NL > 0).sum(dim=1).double()
    dead = int(((dense_NL > 0).sum(dim=0) == 0).sum())
    assert dead >= 1
    assert metrics["fvu"] == pytest.approx(float(fvu), rel=1e-5)
    assert metrics["l0"] == pytest.approx(float(l0_N.mean()), rel=1e-12)
    assert metrics["l0_std"] == pytest.approx(float(l0_N.std(correction=0)), rel=1e-9, abs=1e-7)
    assert (metrics["dead"], metrics["dead_fraction"], metrics["tokens"]) == (dead, dead / 24, 38)


def test_residuals_cover_only_the_counted_tokens() -> None:
    corpus, lm = toy_corpus(), ToyModel()
    contexts = np.array([4, 1, 33])
    reported: list[tuple[int, int]] = []
    x_ND = torch.cat(list(residuals(lm, corpus, contexts, resid_post(1), lambda *at: reported.append(at))))  # type: ignore[arg-type]
    whole = lm.activations(torch.from_numpy(corpus.tokens[contexts].astype(np.int64)), resid_post(1))
    expected = [whole[i, 1 : corpus.length[row]] for i, row in enumerate(contexts)]
    assert torch.equal(x_ND, torch.cat(expected))
    assert len(x_ND) == counted_tokens(corpus, contexts)
    assert reported[-1] == (len(x_ND), len(x_ND))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 80), st.integers(1, 400))
def test_calibration_and_evaluation_share_no_context_and_see_no_training_text(n_held_out: int, wanted: int) -> None:
    corpus = toy_corpus(4 * n_held_out)
    calibration, evaluation = held_out_contexts(corpus, wanted)
    assert not set(calibration) & set(evaluation)
    assert corpus.held_out[calibration].all()
    assert corpus.held_out[evaluation].all()
    for contexts, half in ((calibration, (n_held_out + 1) // 2), (evaluation, n_held_out // 2)):
        assert counted_tokens(corpus, contexts) >= wanted or len(contexts) == half
        assert counted_tokens(corpus, contexts[:-1]) < wanted


@pytest.mark.parametrize("n_held_out", [0, 1])
def test_too_little_held_out_text_is_a_user_error(n_held_out: int) -> None:
    corpus = toy_corpus(9)
    corpus = corpus_of(corpus.tokens, corpus.length, np.arange(9) < n_held_out)
    with pytest.raises(UserError, match=r"text: .*held out"):
        held_out_contexts(corpus, 100)


# ---- calibration


def identity_sae(n_latents: int) -> Autoencoder:
    """Make an SAE whose pre-activations are its input."""
    return Autoencoder(
        {"W_enc": torch.eye(n_latents), "b_enc": torch.zeros(n_latents), "W_dec": torch.eye(n_latents),
         "b_dec": torch.zeros(n_latents), "threshold": torch.zeros(1)},
        {"architecture": "batch_topk", "normalize": "none", "k": 1})


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 40),
       st.sampled_from([0.0, 1.0, -1.0]), st.booleans())
def test_calibrated_mean_l0_is_k_exactly(seed: int, sizes: list[int], k: int, shift: float, uneven: bool) -> None:
    """Calibrate on random batches, some with nearly all of the strongest values, some with few positive ones."""
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(n, 48, generator=generator) + shift for n in sizes]
    if uneven:
        batches[0] *= 1000
    sae = identity_sae(48)
    theta = calibrate_threshold(sae, batches, k)
    values = torch.cat(batches).reshape(-1)
    ordered = values[values > 0].sort(descending=True).values
    wanted = k * sum(sizes)
    if len(ordered) <= wanted:
        assert theta == 0.0
        assert mean_l0(sae, batches, theta) == len(ordered) / sum(sizes)
    elif ordered[wanted - 1] > ordered[wanted]:  # no tie at the cut
        assert mean_l0(sae, batches, theta) == k
        sae.sparsity.threshold = theta
        assert len(sae.codes(torch.cat(batches)).value_N) == wanted
    else:
        assert mean_l0(sae, batches, theta) < k


def test_calibration_separates_neighbouring_floats() -> None:
    one = np.float32(1)
    above = np.nextafter(one, np.float32(2))
    for high, low in ((above, one), (np.nextafter(above, np.float32(2)), above)):
        x_BD = torch.tensor([[float(high), float(low)]])
        theta = calibrate_threshold(identity_sae(2), [x_BD], 1)
        assert mean_l0(identity_sae(2), [x_BD], theta) == 1


def test_calibration_counts_a_tie_as_inactive() -> None:
    x_BD = torch.tensor([[3.0, 2.0, 2.0, 2.0, 1.0, -1.0]])
    theta = calibrate_threshold(identity_sae(6), [x_BD], 2)
    assert theta == 2.0
    assert mean_l0(identity_sae(6), [x_BD], theta) == 1


# ---- cross-entropy, by hand


@pytest.fixture(scope="module")
def plain() -> Any:
    return AutoModelForCausalLM.from_pretrained(DEMO_PATH, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def python_corpus(demo_lm: LanguageModel) -> Corpus:
    """Make six contexts of Python source, of which the last two are short."""
    ids = demo_lm.encode(Path(textwrap.__file__).read_text(encoding="utf-8"))
    length = np.array([24, 24, 24, 24, 11, 3])
    tokens = np.zeros((6, 24), dtype=np.int64)
    for row, n in enumerate(length):
        tokens[row, 1:n] = ids[row * 40 : row * 40 + n - 1]
    return corpus_of(tokens, length, np.arange(6) > 0)


def losses_by_hand(
    plain: Any, corpus: Corpus, contexts: np.ndarray, layer: int, change: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """Return the loss of every predicted token but the first, one context at a time and without padding.

    `change` is applied to the output of the block at all positions but BOS.
    """

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        assert change is not None
        hidden = output[0] if isinstance(output, tuple) else output
        changed = torch.cat([hidden[:, :1], change(hidden[0, 1:])[None]], dim=1)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    out = []
    handle = plain.model.layers[layer].register_forward_hook(hook) if change else None
    with torch.no_grad():
        for row in contexts:
            ids = torch.from_numpy(corpus.tokens[row, : corpus.length[row]].astype(np.int64))
            logits = plain(ids[None]).logits[0]
            out.append(F.cross_entropy(logits[1:-1], ids[2:], reduction="none"))
    if handle:
        handle.remove()
    return torch.cat(out).double()


@pytest.mark.parametrize(("architecture", "normalize"), [("batch_topk", "layer_norm"), ("topk", "none")])
def test_cross_entropy_equals_plain_hooks(
    demo_lm: LanguageModel, plain: Any, python_corpus: Corpus, tiny_sae: Any, architecture: str, normalize: str
) -> None:
    sae = tiny_sae(architecture, normalize)
    contexts = np.array([4, 0, 5, 2])
    mean_D = torch.cat(list(residuals(demo_lm, python_corpus, np.array([1, 3]), resid_post(2)))).mean(dim=0)
    found = cross_entropy_metrics(demo_lm, sae, python_corpus, contexts, mean_D)
    changes: dict[str, Callable[[Tensor], Tensor] | None] = {
        "clean": None, "sae": sae.reconstruct, "zero": torch.zeros_like, "mean": lambda x_ND: mean_D.expand_as(x_ND)}
    losses = {name: losses_by_hand(plain, python_corpus, contexts, 2, change) for name, change in changes.items()}
    ce = {name: float(loss.mean()) for name, loss in losses.items()}
    assert found["ce_tokens"] == len(losses["clean"]) == 22 + 22 + 9 + 1
    for name, value in ce.items():
        assert found[f"ce_{name}"] == pytest.approx(value, abs=1e-4)
    assert abs(ce["sae"] - ce["clean"]) > 0.1  # the replacement does something
    assert found["delta_ce"] == pytest.approx(ce["sae"] - ce["clean"], abs=1e-4)
    for name in ("zero", "mean"):
        expected = (ce[name] - ce["sae"]) / (ce[name] - ce["clean"])
        assert found[f"ce_recovered_{name}"] == pytest.approx(expected, abs=1e-3)


class Spy:
    """A language model that records the input and output of every edit."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm, self.device, self.info = lm, lm.device, lm.info
        self.logits_PSV: list[Tensor] = []
        self.edited: list[tuple[Tensor, Tensor]] = []

    def logits(self, tokens_PS: Tensor, edits: Edits | None = None) -> Tensor:
        def spied(edit: Edit) -> Edit:
            def run(x_PSD: Tensor) -> Tensor:
                before = x_PSD.clone()
                self.edited.append((before, edit(x_PSD)))
                assert torch.equal(before, x_PSD)  # nothing is changed in place
                return self.edited[-1][1]

            return run

        self.logits_PSV.append(self.lm.logits(tokens_PS, {k: spied(e) for k, e in edits.items()} if edits else None))
        return self.logits_PSV[-1]


def test_bos_and_padding_are_bit_identical_in_every_run(
    demo_lm: LanguageModel, python_corpus: Corpus, tiny_sae: Any
) -> None:
    spy, contexts = Spy(demo_lm), np.array([4, 0, 5])
    cross_entropy_metrics(spy, tiny_sae(), python_corpus, contexts, torch.ones(256))  # type: ignore[arg-type]
    counted_PS = torch.arange(24) < torch.from_numpy(python_corpus.length[contexts])[:, None]
    counted_PS[:, 0] = False
    assert len(spy.logits_PSV) == 4
    assert len(spy.edited) == 3
    for before, after in spy.edited:
        assert torch.equal(before[~counted_PS], after[~counted_PS])
        assert (before[counted_PS] != after[counted_PS]).any(dim=1).all()
    for logits_PSV in spy.logits_PSV[1:]:  # the token after BOS is predicted from BOS alone
        assert torch.equal(logits_PSV[:, 0], spy.logits_PSV[0][:, 0])


# ---- calibration and evaluation together


def test_an_sae_is_calibrated_on_one_half_and_measured_on_the_other(
    demo_lm: LanguageModel, python_corpus: Corpus, tiny_sae: Any
) -> None:
    sae = tiny_sae(n_latents=48, k=5)
    sae.config["threshold"] = {"trained": 0.3}
    calibrate_and_evaluate(demo_lm, [sae], python_corpus, 1000, 1000)
    calibration, evaluation = held_out_contexts(python_corpus, 1000)
    x_ND = torch.cat(list(residuals(demo_lm, python_corpus, calibration, resid_post(2))))
    threshold = sae.config["threshold"]
    assert threshold["trained"] == 0.3
    assert threshold["calibrated"] == sae.sparsity.threshold
    assert threshold["l0_calibrated"] == 5
    assert threshold["l0_trained"] == pytest.approx(len(sae_with(sae, 0.3).codes(x_ND).value_N) / len(x_ND))
    assert threshold["calibration_tokens"] == len(x_ND)
    metrics = sae.config["metrics"]
    assert metrics["tokens"] == counted_tokens(python_corpus, evaluation)
    direct = reconstruction_metrics(sae, residuals(demo_lm, python_corpus, evaluation, resid_post(2)))
    assert {name: metrics[name] for name in direct} == direct
    again = evaluate(demo_lm, sae, python_corpus, 1000, 1000)
    assert again == pytest.approx(metrics)


# ---- several SAEs, and transcoders


def transcoder_of(sae: Autoencoder, generator: torch.Generator) -> Autoencoder:
    """Turn an SAE into a transcoder of block 2's MLP, with a bias of its own before the encoder."""
    tensors = sae.tensors() | {"b_in": 0.1 * torch.randn(sae.d_model, generator=generator)}
    site = {"layer": 2, "hook": "blocks.2.ln2.hook_normalized", "out_hook": "blocks.2.hook_mlp_out"}
    return Autoencoder(tensors, {**sae.config, "site": site, "d_in": sae.d_model, "threshold": None})


def test_several_are_measured_as_each_alone(
    demo_lm: LanguageModel, python_corpus: Corpus, tiny_sae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fresh() -> list[Autoencoder]:
        made = [tiny_sae(n_latents=48, k=5), tiny_sae("topk", k=4), tiny_sae(n_latents=64, k=3)]
        for sae in (made[0], made[2]):
            sae.config["threshold"] = {"trained": 0.3}
        return made

    reads: list[str] = []
    plain = LanguageModel.activations_at

    def counted(self: LanguageModel, tokens_PS: Tensor, hooks: Any, **options: Any) -> list[Tensor]:
        reads.extend(hooks)
        return plain(self, tokens_PS, hooks, **options)

    monkeypatch.setattr(LanguageModel, "activations_at", counted)
    together = fresh()
    calibrate_and_evaluate(demo_lm, together, python_corpus, 1000, 1000)
    assert reads == [resid_post(2)] * 2  # once to calibrate, once to evaluate
    for one, other in zip(fresh(), together, strict=True):
        calibrate_and_evaluate(demo_lm, [one], python_corpus, 1000, 1000)
        assert one.config["metrics"] == other.config["metrics"]
        assert one.config["threshold"] == other.config["threshold"]


def test_a_transcoder_is_measured_at_what_it_reconstructs(
    demo_lm: LanguageModel, plain: Any, python_corpus: Corpus, tiny_sae: Any
) -> None:
    """Compare FVU with the MLP's output as target, and ΔCE with that output replaced by the transcoder's."""
    sae = transcoder_of(tiny_sae("topk", k=6), torch.Generator().manual_seed(3))
    contexts = np.array([4, 0, 5, 2])
    rows = torch.cat(list(counted_rows(demo_lm, python_corpus, contexts, sites(sae))))
    x_ND, target_ND = read_and_target(sae, rows)
    error = (target_ND - sae.reconstruct(x_ND)).double().square().sum()
    spread = (target_ND - target_ND.mean(dim=0)).double().square().sum()
    assert reconstruction_metrics(sae, [rows[:7], rows[7:]])["fvu"] == pytest.approx(float(error / spread), rel=1e-5)

    mean_D = target_ND.mean(dim=0)
    found = cross_entropy_metrics(demo_lm, sae, python_corpus, contexts, mean_D)
    mlp, norm = plain.model.layers[2].mlp, plain.model.layers[2].post_attention_layernorm

    def losses(change: Callable[[Tensor], Tensor]) -> float:
        """Compute losses with hooks on the plain model, which normalise the norm's input again, without its gain."""
        seen: list[Tensor] = []

        def read(_module: Any, inputs: Any, _output: Any) -> None:
            raw = inputs[0][0]
            seen[:] = [raw * torch.rsqrt(raw.square().mean(dim=-1, keepdim=True) + norm.variance_epsilon)]

        def write(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
            return torch.cat([output[:, :1], change(seen[0][1:])[None]], dim=1)

        handles = [norm.register_forward_hook(read), mlp.register_forward_hook(write)]
        out = []
        with torch.no_grad():
            for row in contexts:
                ids = torch.from_numpy(python_corpus.tokens[row, : python_corpus.length[row]].astype(np.int64))
                logits = plain(ids[None]).logits[0]
                out.append(F.cross_entropy(logits[1:-1], ids[2:], reduction="none"))
        for handle in handles:
            handle.remove()
        return float(torch.cat(out).double().mean())

    for name, change in (("ce_sae", sae.reconstruct), ("ce_zero", torch.zeros_like),
                         ("ce_mean", lambda x_ND: mean_D.expand_as(x_ND))):
        assert found[name] == pytest.approx(losses(change), abs=1e-4)
    assert abs(found["delta_ce"]) > 1e-2


def test_heads_are_replaced_as_one_vector(demo_lm: LanguageModel, python_corpus: Corpus, tiny_sae: Any) -> None:
    """Check that an SAE which returns its input changes nothing, at whichever site."""
    class Faithful(Autoencoder):
        def reconstruct(self, x_BD: Tensor) -> Tensor:
            assert x_BD.ndim == 2
            return x_BD

    for kind in ("attn.hook_z", "mlp.hook_post", "hook_resid_mid"):
        sae = tiny_sae("topk", k=6)
        config = {**sae.config, "site": {"layer": 1, "hook": f"blocks.1.{kind}"}}
        width = 704 if kind == "mlp.hook_post" else 256
        found = cross_entropy_metrics(demo_lm, Faithful(sae.tensors(), config), python_corpus, np.array([0, 5]),
                                      torch.zeros(width))
        assert found["delta_ce"] == pytest.approx(0, abs=1e-5)
        assert abs(found["ce_zero"] - found["ce_clean"]) > 1e-3


def sae_with(sae: Autoencoder, threshold: float) -> Autoencoder:
    out = Autoencoder(sae.tensors(), sae.config)
    out.sparsity.threshold = threshold
    return out


def test_topk_has_nothing_to_calibrate(demo_lm: LanguageModel, python_corpus: Corpus, tiny_sae: Any) -> None:
    sae = tiny_sae("topk", k=5)
    calibrate_and_evaluate(demo_lm, [sae], python_corpus, 1000, 1000)
    assert sae.config["threshold"] is None
    assert sae.sparsity.threshold is None
    assert sae.config["metrics"]["l0"] <= 5


@pytest.mark.parametrize("by_norm", [False, True])
def test_tokens_that_training_left_out_are_neither_replaced_nor_averaged(
    demo_lm: LanguageModel, python_corpus: Corpus, tiny_sae: Any, by_norm: bool
) -> None:
    sae, contexts = tiny_sae("topk", "none"), np.array([1, 3])
    tokens_PS = torch.from_numpy(python_corpus.tokens[contexts].astype(np.int64))
    norm_PS = demo_lm.activations(tokens_PS, sae.hook).norm(dim=2)
    limit, common = float(norm_PS[:, 1:].median()), int(tokens_PS[0, 1:].mode().values)
    sae.config["left_out"] = (LeftOut(limit, (), 2.0) if by_norm else LeftOut(tokens=(common,))).record()
    found = cross_entropy_metrics(demo_lm, sae, python_corpus, contexts, torch.zeros(sae.d_model))
    real_PS = torch.arange(tokens_PS.shape[1]) < torch.from_numpy(python_corpus.length[contexts])[:, None]
    kept_PS = real_PS & (norm_PS <= limit if by_norm else tokens_PS != common)
    kept_PS[:, 0] = False
    predicts_PS = kept_PS[:, :-1] & real_PS[:, 1:]
    assert found["ce_tokens"] == int(predicts_PS.sum()) < int(real_PS[:, 1:-1].sum())
    logits_PSV = demo_lm.logits(tokens_PS, {sae.hook: lambda x_PSD: torch.where(kept_PS[:, :, None], 0.0, x_PSD)})
    loss_PS = torch.nn.functional.cross_entropy(
        logits_PSV[:, :-1].transpose(1, 2), tokens_PS[:, 1:], reduction="none")
    assert found["ce_zero"] == pytest.approx(float(loss_PS[predicts_PS].double().mean()), rel=1e-4)
