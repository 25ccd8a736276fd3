"""The N2G measure: how well patterns of tokens with wildcards predict where latents fire (Gao et al. 2024, 4.3).

Patterns are found on the strongest firings in one half of the documents.  Their precision and recall are measured on
the other half: on all of its tokens, and on the contexts with the latent's strongest firings there.  The short rules
of `sae.index.firing_rules` are found and measured on the same halves.

Shapes: N (token, latent) pairs, P contexts, S positions, V vocabulary, L chosen latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae.errors import UserError
from sae.evaluation.intervals import mean_of
from sae.evaluation.measure import Progress, Result, Subject
from sae.evaluation.metrics import counted_tokens
from sae.evaluation.n2g_patterns import WILDCARD, Pattern, Text, end_activations, find_patterns, matches
from sae.evaluation.reading import first_contexts, halves, read_tokens, stages
from sae.index.firing_rules import KINDS, Counts, Rules, find_rules
from sae.index.token_counts import PairCounts

DEFINITIONS: dict[str, str] = {
    "n2g_precision": "Share of the predicted firings that are firings, on held-out text: mean over latents.",
    "n2g_recall": "Share of the firings on held-out text that the patterns predict: mean over latents.",
    "n2g_f1": "Harmonic mean of precision and recall on held-out text: mean over latents.",
    "n2g_top_precision": "Precision in the contexts of held-out text where the latent fires most strongly.",
    "n2g_top_recall": "Recall in the contexts of held-out text where the latent fires most strongly.",
    "n2g_explained": "Share of the strongest firings that give a pattern: a short end of the text is enough there.",
    "rule_precision": "Precision of the short rules of latents' pages, found and measured on the same text.",
    "rule_recall": "Recall of these rules; 0 for a latent without a rule.",
    "rule_f1": "Harmonic mean of the rules' precision and recall: mean over latents.",
}
_MIN_FIRINGS = 10  # in the half where patterns are found
_TOP_CONTEXTS = 10


@dataclass(frozen=True)
class Firings:
    """The firings of some latents: place (context · S + position), latent and activation of each pair, [N]."""

    place_N: NDArray[np.int64]
    latent_N: NDArray[np.int64]
    value_N: NDArray[np.float64]

    def of(self, latent: int) -> Firings:
        mine = self.latent_N == latent
        return Firings(self.place_N[mine], self.latent_N[mine], self.value_N[mine])


@dataclass(frozen=True)
class N2G:
    """Patterns with wildcards for random latents, and how well they predict."""

    n_latents: int = 32
    n_texts: int = 10  # strongest firings of each latent, one a context, that patterns are found on
    longest: int = 12  # tokens of a pattern
    n_tokens: int = 60_000
    name: str = "n2g"

    def refuse(self, subject: Subject) -> str | None:
        if len(subject.contexts) < 2:
            return f"n2g: {len(subject.contexts)} held-out contexts are too few; at least 2 are needed"
        return None

    def run(self, subject: Subject, progress: Progress) -> Result:
        S = subject.corpus.context_length
        finding, scoring = halves(subject, first_contexts(subject, self.n_tokens))
        n = [counted_tokens(subject.corpus, half) for half in (finding, scoring)]
        parts = stages(progress, n[0], n[1], sum(n))
        found = read_firings(subject, finding, parts[0])
        latents = self._latents(subject, found)
        held = read_firings(subject, scoring, parts[1], latents)
        ask, patterns = end_activations(subject), {}
        for number, latent in enumerate(latents):
            texts = strongest_texts(subject, found.of(latent), self.n_texts)
            patterns[latent] = find_patterns(texts, ask, pad_token(subject), self.longest)
            parts[2](number + 1, len(latents))
        rules = rules_of(subject, latents, (found, finding), (held, scoring))
        tokens_PS, counted_PS = _tokens(subject, scoring)
        rows = []
        for number, latent in enumerate(latents):
            mine = held.of(latent)
            fires_PS, act_PS = np.zeros(tokens_PS.shape, dtype=np.bool_), np.zeros(tokens_PS.shape)
            at = np.searchsorted(np.sort(scoring), mine.place_N // S), mine.place_N % S
            fires_PS[at], act_PS[at] = True, mine.value_N
            kept = [pattern for pattern in patterns[latent] if pattern is not None]
            named_PS = matches(kept, tokens_PS) & counted_PS
            top_P = np.argsort(-act_PS.max(axis=1), kind="stable")[:_TOP_CONTEXTS]
            top_P = top_P[act_PS[top_P].max(axis=1) > 0]
            rows.append({
                "latent": latent, "firings": int(fires_PS.sum()), **_scores("", named_PS, fires_PS),
                **_scores("top_", named_PS[top_P], fires_PS[top_P]), **_rule(rules, number),
                "explained": len(kept) / max(len(patterns[latent]), 1),
                "patterns": [_shown(subject, pattern) for pattern in dict.fromkeys(kept)]})
        values = [mean_of(f"n2g_{key}", [row[key] for row in rows if row[key] is not None], share=True) for key in (
            "precision", "recall", "f1", "top_precision", "top_recall", "explained")]
        values += [mean_of(key, [row[key] for row in rows], share=True)
                   for key in ("rule_precision", "rule_recall", "rule_f1")]
        return Result(self.name, tuple(values), {"latents": rows, "tokens_found_on": n[0], "tokens_scored_on": n[1]})

    def _latents(self, subject: Subject, found: Firings) -> list[int]:
        firings_L = np.bincount(found.latent_N, minlength=subject.sae.n_latents)
        often = np.flatnonzero(firings_L >= _MIN_FIRINGS)
        if not len(often):
            raise UserError(f"text: no latent fires {_MIN_FIRINGS} times on the held-out text; give more text", "text")
        return sorted(np.random.default_rng(subject.seed).permutation(often)[: self.n_latents].tolist())


def read_firings(
    subject: Subject, contexts: NDArray[np.int64], progress: Progress, latents: list[int] | None = None
) -> Firings:
    """Return the firings on counted tokens of some latents, or of all."""
    parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))]
    for batch in read_tokens(subject, contexts, progress):
        codes = subject.sae.codes(batch.x_ND)
        token_N, latent_N = codes.token_N.cpu().numpy(), codes.latent_N.cpu().numpy()
        kept = np.isin(latent_N, latents) if latents is not None else np.ones(len(latent_N), dtype=np.bool_)
        place_N = (batch.context_N * subject.corpus.context_length + batch.position_N).numpy()
        parts.append((place_N[token_N[kept]], latent_N[kept], codes.value_N.cpu().double().numpy()[kept]))
    return Firings(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def strongest_texts(subject: Subject, firings: Firings, n: int) -> list[Text]:
    """Return the texts that end at a latent's strongest firings, at most one of each context."""
    S, out = subject.corpus.context_length, list[Text]()
    seen = set[int]()
    for i in np.argsort(-firings.value_N, kind="stable").tolist():
        context, position = divmod(int(firings.place_N[i]), S)
        if context not in seen and len(out) < n:
            seen.add(context)
            tokens = subject.corpus.tokens[context, 1 : position + 1].tolist()
            out.append(Text(int(firings.latent_N[i]), tuple(tokens), float(firings.value_N[i])))
    return out


def pad_token(subject: Subject) -> int:
    """Return a token that means little, which replaces others."""
    return int(subject.model.encode(" _")[0])


def rules_of(
    subject: Subject, latents: list[int], found: tuple[Firings, NDArray[np.int64]],
    held: tuple[Firings, NDArray[np.int64]],
) -> Rules:
    """Return the rules of the latents about the token itself, the one before or the one after."""
    V, L = subject.model.info.d_vocab, len(latents)
    firings_2L = torch.zeros(2, L, dtype=torch.int64)
    base_2V = {kind: torch.zeros(2, V, dtype=torch.int64) for kind in KINDS[:3]}
    pairs: dict[str, list[PairCounts]] = {kind: [] for kind in KINDS[:3]}
    for half, (firings, contexts) in enumerate((found, held)):
        tokens_PS, counted_PS = _tokens(subject, contexts)
        row_N = np.searchsorted(np.sort(contexts), firings.place_N // subject.corpus.context_length)
        position_N = firings.place_N % subject.corpus.context_length
        mine = np.isin(firings.latent_N, latents)
        latent_N = torch.from_numpy(np.searchsorted(latents, firings.latent_N[mine]))
        firings_2L[half] = torch.bincount(latent_N, minlength=L)
        for kind, step in zip(KINDS, (0, -1, 1), strict=False):
            near_PS = np.roll(tokens_PS, -step, axis=1).astype(np.int64)
            valid_PS = counted_PS & (np.roll(counted_PS, -1, axis=1) if step == 1 else True)
            if step == 1:
                valid_PS[:, -1] = False
            base_2V[kind][half] = torch.from_numpy(np.bincount(near_PS[valid_PS], minlength=V))
            at = row_N[mine], position_N[mine]
            keep = torch.from_numpy(valid_PS[at])
            token_N = torch.from_numpy(near_PS[at])[keep]
            pairs[kind].append(PairCounts.count(
                latent_N[keep], L, token_N, V, torch.ones(len(token_N)), torch.full_like(token_N, half)))
    counts = Counts(firings_2L, {kind: one.merge(other) for kind, (one, other) in pairs.items()}, base_2V,
                    torch.zeros(2, L, 1, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.int64))
    return find_rules(counts)


def _tokens(subject: Subject, contexts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the tokens [P, S] of contexts in ascending order, and which positions are counted."""
    rows = np.sort(contexts)
    position_S = np.arange(subject.corpus.context_length)
    counted_PS = (position_S > 0) & (position_S < subject.corpus.length[rows][:, None])
    return subject.corpus.tokens[rows].astype(np.int64), counted_PS


def _scores(prefix: str, named_PS: NDArray[np.bool_], fires_PS: NDArray[np.bool_]) -> dict[str, float | None]:
    """Return precision, recall and F1; None where there is nothing to divide by."""
    both, named, fires = int((named_PS & fires_PS).sum()), int(named_PS.sum()), int(fires_PS.sum())
    return {f"{prefix}precision": both / named if named else None, f"{prefix}recall": both / fires if fires else None,
            f"{prefix}f1": 2 * both / (named + fires) if named + fires else None}


def _rule(rules: Rules, number: int) -> dict[str, Any]:
    kind = int(rules.kind_L[number])
    if kind < 0:
        return {"rule_kind": None, "rule_precision": 0.0, "rule_recall": 0.0, "rule_f1": 0.0}
    return {"rule_kind": KINDS[kind], "rule_precision": float(rules.precision_L[number]),
            "rule_recall": float(rules.recall_L[number]), "rule_f1": float(rules.f1_L[number])}


def _shown(subject: Subject, pattern: Pattern) -> dict[str, Any]:
    """Return a pattern as text; a wildcard is None."""
    pieces, _ = subject.model.vocabulary()
    return {"at_start": pattern.at_start, "tokens": [
        None if token == WILDCARD else pieces[token].decode("utf-8", "replace") for token in pattern.tokens]}
