"""Concept F1: how well single latents agree with labelled concepts (Simon & Zou 2024, "InterPLM").

A latent says yes on a token if its activation is above a share of its maximum.  For a concept,

    precision    share of the tokens with a yes that carry the concept
    recall       share of the concept's tokens with a yes
    span recall  share of the concept's spans that have a yes on at least one token
    F1           harmonic mean of precision and span recall

The latent and the share are chosen on one half of the documents and scored on the other.

Shapes: N tokens, L latents, C concepts, T shares of the maximum, M spans.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sae.errors import UserError
from sae.evaluation.annotations import Annotations, annotate
from sae.evaluation.intervals import mean_of
from sae.evaluation.measure import Progress, Result, Subject, Value
from sae.evaluation.metrics import counted_tokens
from sae.evaluation.reading import TokenBatch, first_contexts, halves, read_tokens, stages
from sae.kernels.codes import Codes

SHARES = (0.0, 0.15, 0.5, 0.6, 0.8)
DEFINITIONS: dict[str, str] = {
    "concept_f1":
        "Mean over concepts of the F1 of the best latent, which is chosen on one half of the text and scored on the "
        "other.",
    "concept_f1_chosen": "Mean over concepts of that latent's F1 on the half that it was chosen on.",
    "concept_token_f1": "Mean over concepts of the same latents' F1 with recall by token instead of by span.",
    "concepts_over_half": "Number of concepts whose best latent has an F1 above 0.5 on the half that scores.",
    "pairs_over_half": "Number of (concept, latent) pairs with an F1 above 0.5 on both halves.",
    "concepts": "Number of concepts that have enough spans in both halves.",
}
_MIN_SPANS = 10
_LISTED = 5


@dataclass
class ConceptCounts:
    """Counts over one half of the text: tokens and spans of concepts, and where latents say yes."""

    n_concepts: int
    maximum_L: Tensor
    tokens_C: Tensor = field(init=False)
    spans_C: Tensor = field(init=False)
    yes_TL: Tensor = field(init=False)  # tokens with a yes
    both_TLC: Tensor = field(init=False)  # tokens with a yes that carry the concept
    hit_TLC: Tensor = field(init=False)  # spans with a yes

    def __post_init__(self) -> None:
        L, C = len(self.maximum_L), self.n_concepts
        self.tokens_C, self.spans_C = (torch.zeros(C, dtype=torch.int64) for _ in range(2))
        self.yes_TL = torch.zeros(len(SHARES), L, dtype=torch.int64)
        self.both_TLC, self.hit_TLC = (torch.zeros(len(SHARES), L, C, dtype=torch.int32) for _ in range(2))

    def add(self, codes: Codes, carries_NC: Tensor, spans: Spans) -> None:
        """Add the codes of some tokens.  No span may continue in other tokens."""
        L, C = codes.n_latents, self.n_concepts
        self.tokens_C += carries_NC.sum(dim=0).long()
        self.spans_C += torch.bincount(spans.concept_M, minlength=C)
        share_N = codes.value_N / self.maximum_L[codes.latent_N].clamp(min=1e-30)
        share_M, key_M = _strongest(codes, share_N, spans)
        at_M = torch.div(key_M, L, rounding_mode="floor")
        for t, share in enumerate(SHARES):
            yes = codes.where(share_N > share)
            self.yes_TL[t] += torch.bincount(yes.latent_N, minlength=L)
            self.both_TLC[t] += yes.with_values(torch.ones_like(yes.value_N)).transpose_matmul(carries_NC).int()
            hit = share_M > share
            pair = (key_M[hit] - at_M[hit] * L) * C + spans.concept_M[at_M[hit]]
            self.hit_TLC[t] += torch.bincount(pair, minlength=L * C).view(L, C).int()

    def precision_TLC(self, t: int) -> Tensor:
        return self.both_TLC[t].double() / self.yes_TL[t].clamp(min=1)[:, None]

    def f1_LC(self, t: int) -> Tensor:
        """Return F1 with recall by span at one share of the maximum."""
        return harmonic(self.precision_TLC(t), self.hit_TLC[t].double() / self.spans_C.clamp(min=1))

    def scores(self, t: int, latent: int, concept: int) -> dict[str, float]:
        """Return everything about one pair."""
        yes, both = int(self.yes_TL[t, latent]), int(self.both_TLC[t, latent, concept])
        precision = both / max(yes, 1)
        recall = both / max(int(self.tokens_C[concept]), 1)
        span_recall = int(self.hit_TLC[t, latent, concept]) / max(int(self.spans_C[concept]), 1)
        f1, token_f1 = (float(harmonic(torch.tensor(precision), torch.tensor(r))) for r in (span_recall, recall))
        return {"precision": precision, "recall": recall, "span_recall": span_recall, "f1": f1, "token_f1": token_f1}


def harmonic(a: Tensor, b: Tensor) -> Tensor:
    """Return the harmonic mean of two numbers, 0 if both are 0."""
    return 2 * a * b / (a + b).clamp(min=1e-30)


@dataclass(frozen=True)
class Spans:
    """Spans of concepts over some tokens: first row, end row (exclusive) and concept of each, [M]."""

    start_M: Tensor
    end_M: Tensor
    concept_M: Tensor


def _strongest(codes: Codes, share_N: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """Return the highest share of each (span, latent) pair that is active, and the pair as span · L + latent."""
    size_M = spans.end_M - spans.start_M
    span_K = torch.repeat_interleave(torch.arange(len(size_M)), size_M)
    row_K = torch.arange(len(span_K)) - (size_M.cumsum(0) - size_M)[span_K] + spans.start_M[span_K]
    count_K = codes.l0_B()[row_K]
    of_J = torch.repeat_interleave(torch.arange(len(row_K)), count_K)
    pair_J = torch.arange(len(of_J)) - (count_K.cumsum(0) - count_K)[of_J] + codes.offset_B[row_K][of_J]
    key_J = span_K[of_J] * codes.n_latents + codes.latent_N[pair_J]
    key_M, place_J = torch.unique(key_J, return_inverse=True)
    highest = torch.zeros(len(key_M)).scatter_reduce_(0, place_J, share_N[pair_J], "amax")
    return highest, key_M


@dataclass(frozen=True)
class Concepts:
    """F1 of the best latent for each concept of a label file, or of Python's syntax."""

    n_tokens: int = 100_000
    name: str = "concepts"

    def refuse(self, subject: Subject) -> str | None:
        if len(subject.contexts) < 2:
            return f"concepts: {len(subject.contexts)} held-out contexts are too few; at least 2 are needed"
        return None

    def run(self, subject: Subject, progress: Progress) -> Result:
        annotations = annotate(subject)
        wanted = np.isin(annotations.contexts, first_contexts(subject, self.n_tokens))
        choosing, scoring = halves(subject, annotations.contexts[wanted])
        n = [counted_tokens(subject.corpus, part) for part in (choosing, scoring)]
        parts = stages(progress, n[0], n[0], n[1])
        maximum_L = torch.zeros(subject.sae.n_latents)
        for batch in read_tokens(subject, choosing, parts[0]):
            codes = subject.sae.codes(batch.x_ND)
            maximum_L.scatter_reduce_(0, codes.latent_N.cpu(), codes.value_N.float().cpu(), "amax")
        chosen, scored = (count(subject, annotations, contexts, maximum_L, part)
                          for contexts, part in ((choosing, parts[1]), (scoring, parts[2])))
        return Result(self.name, *_outcome(annotations.concepts, chosen, scored, n))


def count(
    subject: Subject, annotations: Annotations, contexts: np.ndarray, maximum_L: Tensor, progress: Progress
) -> ConceptCounts:
    """Count over some contexts."""
    counts = ConceptCounts(len(annotations.concepts), maximum_L)
    for batch in read_tokens(subject, contexts, progress):
        codes = subject.sae.codes(batch.x_ND)
        on_cpu = Codes(codes.token_N.cpu(), codes.latent_N.cpu(), codes.value_N.float().cpu(), codes.n_tokens,
                       codes.n_latents)
        spans = Spans(*(torch.tensor(column) for column in zip(*_rows(annotations, batch), strict=True)))
        carries_NC = torch.zeros(len(batch.x_ND), counts.n_concepts)
        for start, end, concept in zip(*(t.tolist() for t in vars(spans).values()), strict=True):
            carries_NC[start:end, concept] = 1
        counts.add(on_cpu, carries_NC, spans)
    return counts


def _rows(annotations: Annotations, batch: TokenBatch) -> Iterator[tuple[int, int, int]]:
    """Yield the spans as rows of a batch.  Tokens that were left out are missing from it."""
    context_N, position_N = batch.context_N.numpy(), batch.position_N.numpy()
    first_K = np.flatnonzero(np.diff(context_N, prepend=-1))
    for first, end in zip(first_K, [*first_K[1:], len(context_N)], strict=True):
        for a, b, concept in annotations.spans[int(context_N[first])]:
            low, high = np.searchsorted(position_N[first:end], (a, b)) + first
            if low < high:
                yield int(low), int(high), concept


def _outcome(
    concepts: list[str], chosen: ConceptCounts, scored: ConceptCounts, n_tokens: list[int]
) -> tuple[tuple[Value, ...], dict[str, object]]:
    """Choose the best pairs on the first counts and score them on the second."""
    enough = ((chosen.spans_C >= _MIN_SPANS) & (scored.spans_C >= _MIN_SPANS)).nonzero()[:, 0].tolist()
    if not enough:
        raise UserError(f"labels: none of {len(concepts)} concepts has {_MIN_SPANS} spans in both halves of the "
                        "held-out text; give more text or more labels", "labels")
    f1_TLC = [chosen.f1_LC(t) for t in range(len(SHARES))]
    best_LC, share_LC = torch.stack(f1_TLC).max(dim=0)
    table, pairs = [], 0
    for c in enough:
        order = best_LC[:, c].argsort(descending=True, stable=True)
        for latent in order[: int((best_LC[:, c] > 0.5).sum())].tolist():
            pairs += scored.scores(int(share_LC[latent, c]), latent, c)["f1"] > 0.5
        latents = [{"latent": latent, "share": SHARES[int(share_LC[latent, c])],
                    "f1_chosen": float(best_LC[latent, c]), **scored.scores(int(share_LC[latent, c]), latent, c)}
                   for latent in order[:_LISTED].tolist()]
        table.append({"concept": concepts[c], "spans": int(scored.spans_C[c]), "tokens": int(scored.tokens_C[c]),
                      "base_rate": int(scored.tokens_C[c]) / max(n_tokens[1], 1), **latents[0], "latents": latents})
    table.sort(key=lambda row: -row["f1"])
    f1 = [float(row["f1"]) for row in table]
    values = (
        mean_of("concept_f1", f1, share=True),
        mean_of("concept_f1_chosen", [float(row["f1_chosen"]) for row in table], share=True),
        mean_of("concept_token_f1", [float(row["token_f1"]) for row in table], share=True),
        Value("concepts_over_half", sum(value > 0.5 for value in f1), n=len(f1)),
        Value("pairs_over_half", pairs), Value("concepts", len(f1)))
    return values, {"concepts": table, "tokens_chosen_on": n_tokens[0], "tokens_scored_on": n_tokens[1]}
