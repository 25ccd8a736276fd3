"""Tests of splitting between sizes: planted parts, counts against a dense recomputation, Wilson's interval."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae.evaluation.splitting import DEFINITIONS, Splitting, near_counts, share
from tests.unit.sae.evaluation.neighbours import saved, subject_of, toy


def test_planted_parts_are_counted(tmp_path: Path) -> None:
    """The larger SAE has one copy of the first latents, two of the next, and new directions for the rest."""
    own, large = toy(8), toy(8)
    W = torch.eye(6)
    own.W_enc_LD, own.b_enc_L, own.W_dec_LD = own.W_enc_LD[:6], own.b_enc_L[:6], W.clone()
    own.config["n_latents"] = 6
    large.W_dec_LD = torch.stack([W[0], W[1], W[1], -W[2], -W[3], -W[4], -W[5], W[0] + W[1]])
    large.W_dec_LD /= large.W_dec_LD.norm(dim=1, keepdim=True)  # the last is at 0.707 of two latents
    for sae in (own, large):
        sae.b_enc_L.fill_(100.0)  # all fire
    saved(tmp_path, "sae", own)
    saved(tmp_path, "large", large)
    subject = subject_of(tmp_path, own)
    assert Splitting().refuse(subject) is None
    result = Splitting().run(subject, lambda *_: None)
    values = {value.key: value.value for value in result.values}
    assert set(values) == set(DEFINITIONS)
    assert values == {"kept": 0, "split": pytest.approx(2 / 6), "lost": pytest.approx(4 / 6), "novel": 0.5}
    assert result.detail["most_split"] == [{"latent": 1, "parts": 3}, {"latent": 0, "parts": 2}]
    assert result.detail["sizes"] == [6, 8]
    # From the larger one's side the comparison is the same.
    back = Splitting().run(subject_of(tmp_path, large), lambda *_: None)
    assert back.detail["other"] == "toy/sae"
    assert {value.key: value.value for value in back.values} == values


def test_counts_equal_a_dense_recomputation_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae.evaluation.splitting._ENTRIES", 100)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(30, 4, generator=generator), torch.randn(40, 4, generator=generator)
    near = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2) >= 0.7
    children, parents = near_counts(a, b, 0.7)
    assert torch.equal(children, near.sum(dim=1))
    assert torch.equal(parents, near.sum(dim=0))


def test_a_share_has_wilsons_interval() -> None:
    value = share("kept", 8, 10)
    assert (value.low, value.high) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))
    assert share("kept", 0, 0).value is None


def test_without_another_size_it_says_what_is_missing(tmp_path: Path) -> None:
    said = Splitting().refuse(subject_of(tmp_path, saved(tmp_path, "sae", toy())))
    assert said is not None
    assert "another number of latents" in said
