"""The first letters of a model's one-token words: prompts, activations, the probe, and a letter's main latents.

A word stands at the end of a prompt with ten lines "{word} has the first letter: {LETTER}", and its activation is
read.  The probe is linear, one letter against the others, with weighted cross-entropy and Adam (SAEBench's settings).

Shapes: W words, S positions, D width, L latents, A letters (26).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.evaluation.measure import Progress, Subject
from sae.kernels.codes import Codes
from sae.lm.bridge import LanguageModel

LETTERS = "abcdefghijklmnopqrstuvwxyz"
F1_NEEDED, LETTERS_NEEDED = 0.6, 20
_WORD = re.compile(rb" ?[A-Za-z]{2,}")
_LINES = 10  # examples in the prompt
_TEST_SHARE = 0.2
_EPOCHS, _BATCH, _STEPS = 50, 128, 1_500  # at least 50 passes over the words, and at least 1,500 steps
_L1, _L1_STEPS = 0.01, 200  # weight of the sparse probe's penalty, and its steps
_MOST_MAIN, _GAIN = 10, 0.03  # most main latents, and the F1 that one more must bring


@dataclass(frozen=True)
class Spelling:
    """The words with their activations, and what the probe finds."""

    letter_W: Tensor
    test: Tensor  # [W], the words that no probe was trained on
    x_WD: Tensor
    probe_AD: Tensor
    predicted_WA: Tensor  # whether the probe says that a word has a letter
    f1: dict[int, float]  # by letter, on the test words


def spelling_of(subject: Subject, words_per_letter: int, progress: Progress) -> Spelling | str:
    """Return the words and the probe, or one line that says why there is none."""
    tokens, letters = words_of(subject.model, words_per_letter, subject.seed)
    if len(set(letters)) < LETTERS_NEEDED:
        return (f"absorption needs one-token words that begin with {LETTERS_NEEDED} letters; this vocabulary has some "
                f"for {len(set(letters))}")
    generator = torch.Generator().manual_seed(subject.seed)
    test = torch.rand(len(tokens), generator=generator) < _TEST_SHARE
    examples = torch.randperm(len(tokens), generator=generator)
    prefix = _prefix(subject.model, tokens, letters, [i for i in examples.tolist() if not test[i]][:_LINES])
    x_WD = _activations(subject, prefix, tokens, progress)
    letter_W = torch.tensor(letters, device=x_WD.device)
    test = test.to(x_WD.device)
    probe_AD, bias_A = _probe(x_WD[~test], letter_W[~test], generator)
    predicted_WA = x_WD @ probe_AD.T + bias_A > 0
    scores = {letter: f1_score(predicted_WA[test, letter], letter_W[test] == letter) for letter in sorted(set(letters))
              if bool((letter_W[test] == letter).any())}
    return Spelling(letter_W, test, x_WD, probe_AD, predicted_WA, scores)


def words_of(model: LanguageModel, per_letter: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the tokens that are words of at least two ASCII letters, at most so many a letter, with their letters."""
    by_letter: dict[int, list[int]] = {}
    pieces, special = model.vocabulary()
    for token, (piece, is_special) in enumerate(zip(pieces, special, strict=True)):
        if not is_special and _WORD.fullmatch(piece):
            by_letter.setdefault(LETTERS.index(chr(piece.strip()[0]).lower()), []).append(token)
    rng = np.random.default_rng(seed)
    chosen = [(int(token), letter) for letter, tokens in sorted(by_letter.items())
              for token in sorted(rng.permutation(tokens)[:per_letter])]
    return [token for token, _ in chosen], [letter for _, letter in chosen]


def _prefix(model: LanguageModel, tokens: list[int], letters: list[int], examples: list[int]) -> list[int]:
    """Return the tokens of the prompt before the word."""
    pieces, _ = model.vocabulary()
    lines = [f"{pieces[tokens[i]].decode().strip()} has the first letter: {LETTERS[letters[i]].upper()}\n"
             for i in examples]
    return [model.bos_id, *(token for token in model.encode("".join(lines)) if token != model.bos_id)]


def _activations(subject: Subject, prefix: list[int], tokens: list[int], progress: Progress) -> Tensor:
    """Return the SAE's input at every word that ends the prompt, [W, D]."""
    model, rows = subject.model, []
    start = torch.tensor(prefix[-(model.info.n_ctx - 1):])
    for part in torch.split(torch.tensor(tokens), max(1, 8192 // (len(start) + 1))):
        prompts_PS = torch.cat([start.expand(len(part), -1), part[:, None]], dim=1).to(model.device)
        rows.append(model.activations(prompts_PS, subject.sae.hook)[:, -1].flatten(1).float())
        progress(sum(map(len, rows)), len(tokens))
    return torch.cat(rows)


def _probe(x_WD: Tensor, letter_W: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Train the linear probes of all letters and return weights and biases in the units of the activations."""
    mean_D = x_WD.mean(dim=0)
    size = (x_WD - mean_D).norm(dim=1).mean() / x_WD.shape[1] ** 0.5
    y_WD, wanted_WA = (x_WD - mean_D) / size, torch.nn.functional.one_hot(letter_W, 26).float()
    positive_A = wanted_WA.sum(dim=0)
    weight_A = (len(y_WD) - positive_A) / positive_A.clamp(min=1)
    probe = torch.nn.Linear(x_WD.shape[1], 26).to(x_WD.device)
    torch.nn.init.zeros_(probe.weight)
    torch.nn.init.zeros_(probe.bias)
    adam = torch.optim.Adam(probe.parameters(), lr=1e-2, weight_decay=1e-4)
    epochs = max(_EPOCHS, -(-_STEPS * _BATCH // len(y_WD)))
    for epoch in range(epochs):
        adam.param_groups[0]["lr"] = 1e-2 * (1e-5 / 1e-2) ** (epoch / (epochs - 1))
        for rows in torch.split(torch.randperm(len(y_WD), generator=generator), _BATCH):
            adam.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(
                probe(y_WD[rows]), wanted_WA[rows], pos_weight=weight_A).backward()  # type: ignore[no-untyped-call]
            adam.step()
    weight_AD = probe.weight.detach() / size
    return weight_AD, probe.bias.detach() - weight_AD @ mean_D


def main_latents(sae: Autoencoder, found: Spelling) -> dict[int, list[int]]:
    """Return the main latents of every letter: the strongest weights of a sparse probe, while one more helps.

    Both the probe and the choice use the training words.
    """
    train = ~found.test
    codes, letter_W = sae.codes(found.x_WD[train]), found.letter_W[train]
    weight_LA = sparse_probe(codes, letter_W)
    out = {}
    for letter in found.f1:
        order = weight_LA[:, letter].topk(min(_MOST_MAIN, codes.n_latents)).indices
        is_letter_W = letter_W == letter
        main, best = [int(order[0])], _f1_of(codes, order[:1], is_letter_W)
        for k in range(2, len(order) + 1):
            f1 = _f1_of(codes, order[:k], is_letter_W)
            if f1 <= best + _GAIN:
                break
            main, best = order[:k].tolist(), f1
        out[letter] = main
    return out


def sparse_probe(codes: Codes, letter_W: Tensor) -> Tensor:
    """Return the weights of L1-penalised logistic probes on the codes, all letters at once: [L, A].

    Only the active pairs are read; no matrix of words and latents is made.
    """
    mean_value = codes.value_N.mean().clamp(min=1e-8)
    scaled = codes.with_values(codes.value_N / mean_value)
    wanted_WA = torch.nn.functional.one_hot(letter_W, 26).float()
    positive_A = wanted_WA.sum(dim=0).clamp(min=1)
    balance_WA = torch.where(wanted_WA > 0, (len(letter_W) - positive_A) / positive_A, 1.0)
    weight_LA = torch.nn.Parameter(torch.zeros(codes.n_latents, 26, device=codes.value_N.device))
    bias_A = torch.nn.Parameter(torch.zeros(26, device=codes.value_N.device))
    adam = torch.optim.Adam([weight_LA, bias_A], lr=1e-2)
    with torch.no_grad():
        for _ in range(_L1_STEPS):
            slope_WA = balance_WA * (torch.sigmoid(scaled.decode(weight_LA) + bias_A) - wanted_WA) / len(letter_W)
            weight_LA.grad = scaled.transpose_matmul(slope_WA) + _L1 / 26 * weight_LA.sign()
            bias_A.grad = slope_WA.sum(dim=0)
            adam.step()
    return weight_LA.detach()


def _f1_of(codes: Codes, latents: Tensor, is_letter_W: Tensor) -> float:
    """Return the F1 of a logistic regression on the activations of a few latents, fitted by Newton's method."""
    x_WK = torch.zeros(codes.n_tokens, len(latents), dtype=torch.float64, device=latents.device)
    for column, latent in enumerate(latents.tolist()):
        own = codes.latent_N == latent
        x_WK[codes.token_N[own], column] = codes.value_N[own].double()
    x_WK = torch.cat([x_WK / x_WK.std(dim=0).clamp(min=1e-8), torch.ones_like(x_WK[:, :1])], dim=1)
    y_W = is_letter_W.double()
    balance_W = torch.where(is_letter_W, 0.5 * len(y_W) / y_W.sum(), 0.5 * len(y_W) / (len(y_W) - y_W.sum()))
    ridge = torch.eye(x_WK.shape[1], dtype=torch.float64, device=latents.device)
    ridge[-1, -1] = 1e-6
    weight_K = torch.zeros(x_WK.shape[1], dtype=torch.float64, device=latents.device)
    for _ in range(25):
        p_W = torch.sigmoid(x_WK @ weight_K)
        curvature = (x_WK * (balance_W * p_W * (1 - p_W))[:, None]).T @ x_WK + ridge
        step_K = torch.linalg.solve(curvature, x_WK.T @ (balance_W * (p_W - y_W)) + ridge @ weight_K)
        weight_K -= step_K.clamp(-5, 5)
    return f1_score(x_WK @ weight_K > 0, is_letter_W)


def f1_score(says_W: Tensor, is_W: Tensor) -> float:
    """Return the F1 of a yes-or-no prediction; 0 if it never says yes rightly."""
    hits = float((says_W & is_W).sum())
    return 2 * hits / float(says_W.sum() + is_W.sum()) if hits else 0.0
