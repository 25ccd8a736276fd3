"""Tests of the names of values, and of which direction is better."""

from __future__ import annotations

import pytest

from sae.evaluation.keys import KEYS, Key, key_of


@pytest.mark.parametrize(("key", "name", "better"), [
    ("fvu", "FVU", "low"), ("sparse_1_accuracy", "Best latent: accuracy", "high"),
    ("sparse_16_auc", "16 latents: AUC", "high"), ("raw_f1", "Raw activations: F1", "high"),
    ("new_test_f1", "New test F1", "high"), ("some_loss", "Some loss", "low"),
    ("disentanglement", "Disentanglement", ""),
    ("sparse", "Sparse", "")])
def test_names_and_directions(key: str, name: str, better: str) -> None:
    assert (key_of(key).name, key_of(key).better) == (name, better)


def test_names_are_unique() -> None:
    names = [key.name for key in KEYS.values()]
    assert sorted(set(names)) == sorted(names)
    assert key_of("l0") == KEYS["l0"] == Key("L0, held-out text", "low", main=True)
