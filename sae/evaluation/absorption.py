"""First-letter absorption (Chanin et al. 2024, "A is for Absorption"), with SAEBench's definitions.

A linear probe on the activations of one-token words gives the direction of every first letter.  The letter's main
latents are those that a sparse probe on the SAE's codes picks.  Where the linear probe finds the letter but the main
latents do not carry it, other latents that point the same way absorb it:

    c_i = activation × ⟨probe, decoder row⟩
    fraction = Σ c of the absorbers / (Σ c of the absorbers + Σ c of the main latents)

A model that cannot spell is refused, with the share of letters that its probe finds.  Lower scores are better.

Shapes: W words, D width, L latents, A letters (26), M main latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from sae.evaluation.first_letters import F1_NEEDED, LETTERS, LETTERS_NEEDED, Spelling, main_latents, spelling_of
from sae.evaluation.intervals import student_quantile
from sae.evaluation.measure import Progress, Result, Subject, Value

_SHARE = 0.4  # of the probe's projection that absorbers must carry
_COSINE = 0.1  # least cosine of an absorber with the probe
_FULL_COSINE = 0.025  # the same for full absorption
_ABSORBERS = 3  # most absorbers of one word

DEFINITIONS = {
    "mean_absorption_fraction_score": "Mean over letters of the share of a letter's probe projection that latents "
    "other than its main ones carry.",
    "mean_full_absorption_score": "Mean over letters of the share of words on which the main latents are silent and "
    "one other latent carries the letter.",
    "mean_num_split_features": "Mean number of main latents of a letter.",
    "letters": "Number of letters that the probe on the activations finds with an F1 above 0.6."}


class Absorption:
    """First-letter absorption of the subject on the one-token words of its model's vocabulary."""

    name = "absorption"

    def __init__(self, words_per_letter: int = 100) -> None:
        self.words_per_letter = words_per_letter
        self._known: tuple[int, Spelling | str] | None = None  # of the last subject, because a probe takes a pass

    def refuse(self, subject: Subject) -> str | None:
        """Return one line with the number of letters found if the model cannot spell, or None.  Reads all words."""
        found = self._spelling(subject, lambda done, total: None)
        if isinstance(found, str):
            return found
        good = sum(f1 > F1_NEEDED for f1 in found.f1.values())
        if good >= LETTERS_NEEDED:
            return None
        return (f"absorption needs a model that spells: a probe finds the first letter of its words with an F1 above "
                f"{F1_NEEDED} for {good} of 26 letters (mean F1 {fmean(found.f1.values()):.2f}), and {LETTERS_NEEDED} "
                "are needed")

    def run(self, subject: Subject, progress: Progress) -> Result:
        """Measure absorption for every letter that the probe finds.  Intervals are over letters."""
        total = 10
        found = self._spelling(subject, lambda done, of: progress(5 * done // max(of, 1), total))
        assert isinstance(found, Spelling)  # `refuse` was asked first
        main = main_latents(subject.sae, found)
        progress(7, total)
        rows = [letter_scores(subject, found, letter, main[letter]) for letter, f1 in found.f1.items()
                if f1 > F1_NEEDED]
        rows = [row for row in rows if row.words]
        progress(total, total)
        return Result(self.name, (
            _mean("mean_absorption_fraction_score", [row.fraction for row in rows]),
            _mean("mean_full_absorption_score", [row.full for row in rows]),
            _mean("mean_num_split_features", [float(len(row.main)) for row in rows]),
            Value("letters", float(len(rows)), n=26),
        ), {"letters": [{
            "first_letter": LETTERS[row.letter], "mean_absorption_fraction": row.fraction,
            "full_absorption_rate": row.full, "num_probe_true_positives": row.words, "main_latents": row.main,
            "num_split_features": len(row.main), "probe_f1": found.f1[row.letter]} for row in rows]})

    def _spelling(self, subject: Subject, progress: Progress) -> Spelling | str:
        if self._known is None or self._known[0] != id(subject):
            self._known = (id(subject), spelling_of(subject, self.words_per_letter, progress))
        return self._known[1]


@dataclass(frozen=True)
class LetterScores:
    """The scores of one letter."""

    letter: int
    main: list[int]
    words: int  # test words whose letter the probe finds
    fraction: float
    full: float


def letter_scores(subject: Subject, found: Spelling, letter: int, main: list[int]) -> LetterScores:
    """Measure absorption on the test words of a letter that the probe gets right."""
    right = found.test & (found.letter_W == letter) & (found.predicted_WA[:, letter])
    x_WD = found.x_WD[right]
    probe_D = found.probe_AD[letter]
    unit_D = probe_D / probe_D.norm()
    codes = subject.sae.codes(x_WD)
    cosine_L = subject.sae.W_dec_LD @ unit_D
    scale_W = subject.sae.scale(x_WD)[:, 0]
    part_N = codes.value_N * scale_W[codes.token_N] * (subject.sae.W_dec_LD @ probe_D)[codes.latent_N]
    fractions, full = [], 0
    for word, whole in enumerate((x_WD @ probe_D).tolist()):
        own = codes.token_N == word
        fraction, absorbed = word_scores(codes.latent_N[own], part_N[own], cosine_L, main, whole)
        fractions.append(fraction)
        full += absorbed
    n = len(fractions)
    return LetterScores(letter, main, n, fmean(fractions) if n else 0.0, full / n if n else 0.0)


def word_scores(latent_N: Tensor, part_N: Tensor, cosine_L: Tensor, main: list[int], whole: float
                ) -> tuple[float, bool]:
    """Return a word's absorption fraction, and whether one latent has absorbed the letter fully.

    `part_N` are the contributions of the active latents, and `whole` is the probe's projection of the activation.
    """
    is_main_N = torch.isin(latent_N, torch.tensor(main, dtype=latent_N.dtype, device=latent_N.device))
    own, others_N, active_N = float(part_N[is_main_N].sum()), part_N[~is_main_N], latent_N[~is_main_N]
    full = False
    if not bool(is_main_N.any()) and len(others_N) and whole > 0:
        first = int(others_N.argmax())
        full = bool(cosine_L[active_N[first]] >= _FULL_COSINE and others_N[first] >= _SHARE * whole)
    able_N = others_N[(cosine_L[active_N] >= _COSINE) & (others_N > 0)]
    absorbed = float(able_N.topk(min(_ABSORBERS, len(able_N))).values.sum())
    if own >= whole or absorbed < _SHARE * whole:
        return 0.0, full
    if own <= 0:
        return 1.0, full
    carried = min(absorbed, whole - own)
    return carried / (carried + own), full


def _mean(key: str, values: list[float]) -> Value:
    """Return the mean over letters with Student's interval."""
    if not values:
        return Value(key, None, n=0, note="the probe gets no test word right")
    mean = fmean(values)
    if len(values) < 2:
        return Value(key, mean, n=1)
    half = student_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Value(key, mean, mean - half, mean + half, len(values))


