"""Explanations that exist already and still lack a score.  No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sae.explain.explainers import MODEL_METHOD
from sae.explain.records import Explanation, Record, Score

OF = "of"  # in a score's details: the text that was scored, as people may change theirs
SEEN = "seen"  # in a score's details: the author of the text may have seen the texts that score it


def unscored(
    records: Iterable[Record], scorers: Sequence[str], judge: str, again: bool = False,
) -> dict[int, list[Explanation]]:
    """Return the explanations by latent that lack a score of one of these scorers.

    A score of `judge`, of embeddings or of the output side counts if it is of the text as it is now.  With `again` all
    explanations are returned.
    """
    found = list(records)
    texts = {one.id: one for one in found if isinstance(one, Explanation)}
    scored: dict[str, set[str]] = {}
    for score in found:
        if isinstance(score, Score) and (one := texts.get(score.explanation)) is not None:
            by_judge = score.scorer not in ("embedding", "output")
            if score.details.get(OF, one.text) == one.text and (score.model == judge or not by_judge):
                scored.setdefault(one.id, set()).add(score.scorer)
    wanted = set(scorers) - {"intruder"}  # it scores a latent and no explanation
    out: dict[int, list[Explanation]] = {}
    for one in texts.values():
        if again or not wanted <= scored.get(one.id, set()):
            out.setdefault(one.latent, []).append(one)
    return out


def with_text(score: Score, explanations: Sequence[Explanation]) -> Score:
    """Return a score that says which text it is of, and whether its author may have seen the scoring texts.

    Only the program's own model explainer is known to have seen the explaining half alone.
    """
    one = next((e for e in explanations if e.id == score.explanation), None)
    if one is None:
        return score
    return replace(score, details={**score.details, OF: one.text, SEEN: one.method != MODEL_METHOD})
