"""Tests of the search for SAEs next to an SAE."""

from __future__ import annotations

from pathlib import Path

import torch

from sae.evaluation.siblings import alive_of, of_other_seeds, of_other_sizes, same_site
from tests.unit.sae.evaluation.neighbours import saved, subject_of, toy


def test_only_saes_that_differ_in_the_seed_or_the_size_are_siblings(tmp_path: Path) -> None:
    own = saved(tmp_path, "sae", toy(), name="own", seconds=1)
    saved(tmp_path, "seed", toy(seed=1), seed=1, name="other", seconds=2)
    saved(tmp_path, "longer", toy(seed=2), seed=2, tokens=6)
    saved(tmp_path, "large", toy(48), seed=3)
    saved(tmp_path, "small", toy(12), seed=3)
    elsewhere = toy(seed=4)
    elsewhere.config["site"] = {"layer": 2, "hook": "blocks.2.hook_resid_post"}
    saved(tmp_path, "elsewhere", elsewhere, seed=4)
    (tmp_path / "saes" / "toy" / "broken").mkdir()
    (tmp_path / "saes" / "toy" / "broken" / "sae.json").write_text("{")
    subject = subject_of(tmp_path, own)
    assert [name for name, _, _ in same_site(subject)] == ["toy/large", "toy/longer", "toy/seed", "toy/small"]
    assert [name for name, _ in of_other_seeds(subject)] == ["toy/seed"]
    assert [(name, size) for name, _, size in of_other_sizes(subject)] == [("toy/small", 12), ("toy/large", 48)]
    assert list(same_site(subject_of(tmp_path, own, build=False))) == []


def test_alive_latents_are_those_that_fire_on_counted_tokens(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, toy())
    seen: list[tuple[int, int]] = []
    (alive,) = alive_of(subject, [subject.sae], lambda done, total: seen.append((done, total)))
    tokens = torch.from_numpy(subject.corpus.tokens.astype("int64"))
    x = subject.model.activations(tokens, subject.sae.hook)
    real = torch.arange(tokens.shape[1]) < torch.from_numpy(subject.corpus.length)[:, None]
    real[:, 0] = False
    expected = torch.zeros(24, dtype=torch.bool)
    expected[subject.sae.codes(x[real]).latent_N] = True
    assert torch.equal(alive, expected)
    assert not alive[5]  # never fires
    assert alive[7]  # always fires
    assert seen[-1][0] == seen[-1][1] == int(real.sum())
