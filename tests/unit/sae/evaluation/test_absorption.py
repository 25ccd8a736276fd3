"""Tests of first-letter absorption on a model whose spelling, and whose absorbers, are planted."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.evaluation.absorption import DEFINITIONS, Absorption, word_scores
from sae.evaluation.first_letters import LETTERS
from sae.evaluation.measure import Subject
from sae.lm.bridge import LanguageModel
from tests.toys import ToyModel, toy_corpus

D = 40  # 26 directions of letters, 2 of the words' other properties, and 12 without use
WORDS = [a + b for a, b in itertools.product(LETTERS, "bcdfghjkmnpqrstvwxyz")]  # 20 a letter


class SpellingModel(ToyModel):
    """A model whose activation at a word is its first letter and something else; `hidden` mixes the letters up."""

    info = ToyModel.info

    def __init__(self, hidden: bool = False) -> None:
        self.pieces = [b"<bos>", b"\n", b"1", *(f" {word}".encode() for word in WORDS)]
        generator = torch.Generator().manual_seed(0)
        self.table_VD = torch.zeros(len(self.pieces), D)
        for i, word in enumerate(WORDS):
            letter = int(torch.randint(26, (1,), generator=generator)) if hidden else LETTERS.index(word[0])
            self.table_VD[i + 3, letter] = 3.0
            self.table_VD[i + 3, 26 + i % 2] = 2.0

    def vocabulary(self) -> tuple[list[bytes], list[bool]]:
        return self.pieces, [i == 0 for i in range(len(self.pieces))]

    def encode(self, text: str) -> list[int]:
        return [2] * text.count("\n")

    def activations(self, tokens_PS: Tensor, hook: str, *, autocast: bool = False) -> Tensor:
        return self.table_VD[tokens_PS]


def planted(absorbed: int) -> Autoencoder:
    """Return an SAE with a latent for every letter, of which the first is silent on words whose absorber fires.

    Latent 26 + j fires on the words with property j and reads nothing of the letters, but latent 26 (words with
    property 0) writes the letter `a` too, and on those words the latent of `a` is silent.
    """
    W_enc, W_dec = torch.eye(D), torch.eye(D)
    b_enc = torch.full((D,), -0.5)
    if absorbed:
        W_enc[0, 26] = -5.0
        W_enc[26, 0] = 1.0
        b_enc[26] = -2.5  # on words with `a` and property 0 alone
        W_dec[26, 0] = 1.0
        W_dec[26] /= W_dec[26].norm()
    config: dict[str, Any] = {"architecture": "relu", "k": None, "normalize": "none", "n_latents": D, "d_model": D,
                              "site": {"layer": 1, "hook": "blocks.1.hook_resid_post"}}
    return Autoencoder({"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": torch.zeros(D)}, config)


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae.evaluation.first_letters._STEPS", 600)


def subject_of(sae: Autoencoder, hidden: bool = False) -> Subject:
    model = cast(LanguageModel, SpellingModel(hidden))
    return Subject(sae, model, toy_corpus(), np.arange(4), 0)


def test_an_sae_with_a_latent_for_every_letter_absorbs_nothing() -> None:
    measure, subject = Absorption(), subject_of(planted(0))
    assert measure.refuse(subject) is None
    result = measure.run(subject, lambda *_: None)
    values = {value.key: value.value for value in result.values}
    assert set(values) == set(DEFINITIONS)
    assert values["mean_absorption_fraction_score"] == 0
    assert values["mean_full_absorption_score"] == 0
    assert values["mean_num_split_features"] == 1
    assert values["letters"] is not None
    assert values["letters"] >= 25
    assert all(row["main_latents"] == [LETTERS.index(row["first_letter"])] for row in result.detail["letters"])


def test_a_planted_absorber_is_found_for_its_letter_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from sae.evaluation import absorption

    # Half of the words have the property, so a sparse probe would take the absorber for a main latent.
    monkeypatch.setattr(absorption, "main_latents", lambda sae, found: {letter: [letter] for letter in found.f1})
    measure, subject = Absorption(), subject_of(planted(1))
    assert measure.refuse(subject) is None
    found = measure._known
    assert found is not None
    spelling = found[1]
    assert not isinstance(spelling, str)
    rows = {row["first_letter"]: row for row in measure.run(subject, lambda *_: None).detail["letters"]}
    own = spelling.test & (spelling.letter_W == 0) & spelling.predicted_WA[:, 0]
    with_property = int((own & (spelling.x_WD[:, 26] > 0)).sum())
    assert with_property > 0
    assert rows["a"]["full_absorption_rate"] == pytest.approx(with_property / int(own.sum()))
    assert rows["a"]["mean_absorption_fraction"] == pytest.approx(with_property / int(own.sum()))
    assert all(row["full_absorption_rate"] == 0 for letter, row in rows.items() if letter != "a")


def test_a_model_that_cannot_spell_is_refused_with_the_number() -> None:
    said = Absorption().refuse(subject_of(planted(0), hidden=True))
    assert said is not None
    assert "for 0 of 26 letters" in said
    assert "20 are needed" in said


def test_a_vocabulary_without_words_is_refused(tmp_path: Path) -> None:
    sae = planted(0)
    said = Absorption().refuse(Subject(sae, cast(LanguageModel, ToyModel()), toy_corpus(), np.arange(4), 0))
    assert said is not None
    assert "has some for 0" in said


@pytest.mark.parametrize(("parts", "main", "whole", "score"), [
    ([1.0, 0.0, 0.0], [0], 1.0, (0.0, False)),  # the main latent carries all
    ([0.5, 0.5, 0.0], [0], 1.0, (0.5, False)),  # half of it is carried by another
    ([0.8, 0.3, 0.0], [0], 1.0, (0.0, False)),  # the other carries too little
    ([-0.1, 0.5, 0.0], [0], 1.0, (1.0, False)),  # the main latent is active and carries nothing
    ([0.0, 0.9, 0.0], [9], 1.0, (1.0, True)),  # no main latent is active
    ([0.0, 0.3, 0.3], [9], 1.0, (1.0, False)),  # two absorbers together, but none alone
    ([0.4, 5.0, 0.0], [0], 1.0, (0.6, False)),  # no more than what is missing counts
    ([0.4, 0.0, 5.0], [0], 1.0, (0.0, False)),  # the third latent points elsewhere
])
def test_the_score_of_a_word(parts: list[float], main: list[int], whole: float, score: tuple[float, bool]) -> None:
    cosine = torch.tensor([0.9, 0.5, 0.05 if parts[2] > 1 else 0.5] + [0.0] * 7)
    found = word_scores(torch.arange(3), torch.tensor(parts), cosine, main, whole)
    assert found == (pytest.approx(score[0]), score[1])
