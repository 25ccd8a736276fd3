"""An estimate of the requests and tokens of a run that asks a model, before it starts.  No torch.

The explaining prompts of a few latents are made and measured; the scorers' prompts are counted from the length of the
excerpts in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sae.explain.budget import tokens_in
from sae.explain.evidence import evidence_of
from sae.explain.explainers import explain_messages
from sae.explain.judging import INTRUDER_ROUNDS, INTRUDER_TEXTS, TEXTS_PER_PROMPT
from sae.explain.simulation import TEXTS as SIMULATED_TEXTS
from sae.explain.templates import Messages, Template
from sae.specs.explain import ExplainSpec
from sae.store.build import Build

_MEASURED = 6  # latents whose prompts are made
_SHORT_ANSWER = 30  # tokens of an explanation or of a list of decisions, on average


@dataclass(frozen=True)
class RequestEstimate:
    """Requests and tokens of a run, and its price (None: no price is given)."""

    latents: int
    requests: int
    tokens_in: int
    tokens_out: int
    money: float | None


def estimate_requests(
    build: Build, latents: Sequence[int], spec: ExplainSpec, templates: dict[str, Template],
) -> RequestEstimate:
    """Return the estimate for explaining and scoring these latents."""
    found = [record for latent in latents[:: max(1, len(latents) // _MEASURED)][:_MEASURED]
             if (record := build.latent(latent)) is not None]
    shown = [evidence_of(build, record) for record in found]
    excerpts = [excerpt for evidence in shown for excerpt in evidence.excerpts]
    excerpt_tokens = sum(tokens_in(e.text(e.active)) for e in excerpts) // max(1, len(excerpts))
    requests = n_in = n_out = 0
    if spec.explains_by_model and shown:
        requests, n_out = 1, _SHORT_ANSWER
        n_in = sum(_size(explain_messages(templates["explain"], one)) for one in shown) // len(shown)
    n_texts = spec.positives + 3 * spec.negatives
    for scorer in spec.scored_by:
        if scorer in ("detection", "fuzzing"):
            n, texts, answer = -(-n_texts // TEXTS_PER_PROMPT), TEXTS_PER_PROMPT, _SHORT_ANSWER
        elif scorer == "simulation":
            n, texts, answer = SIMULATED_TEXTS, 3, 3 * excerpt_tokens  # a numbered list is about three times as long
        elif scorer == "intruder":
            n, texts, answer = INTRUDER_ROUNDS, INTRUDER_TEXTS, _SHORT_ANSWER
        else:
            continue
        requests, n_out = requests + n, n_out + n * answer
        n_in += n * (_size(templates[scorer].fill()) + texts * excerpt_tokens)
    n = len(latents)
    money = n * (n_in * spec.price_in + n_out * spec.price_out) / 1e6
    return RequestEstimate(n, n * requests, n * n_in, n * n_out, money if spec.price_in or spec.price_out else None)


def _size(messages: Messages) -> int:
    return sum(tokens_in(message["content"]) for message in messages)
