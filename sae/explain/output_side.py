"""The output side of an explanation: does steering with the latent make the model say what the explanation says?

    effect = mean over neutral prompts of  Σ over the explanation's tokens of  p(token | steered) − p(token)

The value is the latent's effect minus the mean effect of random directions of the same length.  The tokens are those of
the explanation's own words.  An explanation of what a latent detects can be right and have no effect, so this score
adds to the others and does not replace them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.explain import measures
from sae.explain.records import Explanation, Score
from sae.lm.row_model import RowModel
from sae.steering.output_score import adding

PROMPTS = ("I think that", "In the end", "The next one is", "We", "It is")
STRENGTH = 2.0
_RANDOM = 8
_WORD = re.compile(r"\w[\w'-]*|[^\w\s]")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)+)"')
# Words that explain but are not said.
_STOP = frozenset((
    "a", "an", "and", "any", "are", "as", "at", "before", "after", "by", "fires", "follows", "for", "from", "has",
    "have", "in", "inside", "is", "it", "its", "not", "of", "on", "or", "that", "the", "their", "then", "these",
    "this", "to", "token", "tokens", "when", "where", "which", "with", "word", "words"))


def output_side(model: RowModel, sae: Autoencoder, explanation: Explanation, max_act: float) -> Score | None:
    """Score an explanation.  Returns None if none of its words is a token of the model, or the latent never fired."""
    tokens = said_tokens(explanation.text, model)
    if not tokens or max_act <= 0:
        return None
    row_D = sae.W_dec_LD[explanation.latent]
    generator = torch.Generator().manual_seed(explanation.latent)
    random_RD = torch.randn(_RANDOM, len(row_D), generator=generator).to(row_D)
    random_RD *= row_D.norm() / random_RD.norm(dim=1, keepdim=True)
    effect_PQ = effects(model, sae, torch.cat([row_D[None], random_RD]) * (STRENGTH * max_act), tokens)
    own_P, random_P = effect_PQ[:, 0], effect_PQ[:, 1:].mean(axis=1)
    gain_P = own_P - random_P
    low, high = measures.mean_interval(gain_P)
    return Score(
        explanation.latent, "output", float(gain_P.mean()), len(gain_P), explanation.id, low, high, None,
        model.lm.info.name, details={
            "effect": float(own_P.mean()), "random_effect": float(random_P.mean()), "strength": STRENGTH,
            "tokens": [model.lm.tokenizer.decode([token]) for token in tokens]})


def effects(model: RowModel, sae: Autoencoder, push_QD: Tensor, tokens: Sequence[int]) -> np.ndarray:
    """Return how much each direction raises the summed probability of `tokens` after each neutral prompt, [P, Q]."""
    out = []
    for prompt in PROMPTS:
        ids = [*model.lm.start, *model.lm.encode(prompt)]
        base = model.read(ids).softmax(0)[list(tokens)].sum()
        p_QV = model.read_many([ids] * len(push_QD), adding(sae, push_QD)).softmax(dim=1)
        out.append((p_QV[:, list(tokens)].sum(dim=1) - base).cpu().double().numpy())
    return np.stack(out)


def said_tokens(text: str, model: RowModel) -> list[int]:
    """Return the tokens of an explanation: of its quoted parts as they are, and the first token of every other word.

    A word counts with and without a space before it.
    """
    quoted = [part.encode().decode("unicode_escape", "replace") if "\\" in part else part
              for part in _QUOTED.findall(text)]
    words = [word for word in _WORD.findall(_QUOTED.sub(" ", text)) if word.lower() not in _STOP]
    forms = [*quoted, *(form for word in words if len(word) > 1 for form in (f" {word}", word))]
    found = [ids[0] for form in forms if (ids := model.lm.encode(form))]
    return list(dict.fromkeys(found))
