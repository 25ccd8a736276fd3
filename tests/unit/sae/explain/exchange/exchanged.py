"""Explanations that the tests of the formats write and read back."""

from __future__ import annotations

from typing import Any

from sae.explain.records import Explanation, Score

RULE = Explanation(3, 'fires on " raise"', "rule", method="saescope-rule", created=1_700_000_000.0)
MODEL = Explanation(5, "the keyword raise — “é”", "model", "ada", "np_max-act-logits", "gpt-4.1-nano",
                    created=1_700_000_000.0)
PERSON = Explanation(7, "numbers", "person", "bob", created=1_700_000_000.0)
SCORE = Score(5, "detection", 0.9, 25, MODEL.id, 0.8, 1.0, 0.88)
ALL = [RULE, SCORE, MODEL, PERSON]


def dump_row(index: str, **changes: Any) -> dict[str, Any]:
    """Return a line of Neuronpedia's public dumps."""
    return {"id": "cm1a2b3c4d5e6f7g8h9i0j1k2", "modelId": "gpt2-small", "layer": "6-res-jb", "index": index,
            "description": " references to  cats", "authorId": "clkht01d40000jv08hvalcvly", "embedding": [0.1] * 256,
            "triggeredById": None, "typeName": "oai_token-act-pair", "explanationModelName": "gpt-3.5-turbo",
            "notes": None, "createdAt": "2024-02-01T10:20:30.123Z", **changes}


def kept(records: list[Any]) -> set[tuple[Any, ...]]:
    return {(one.latent, one.text, one.kind, one.author, one.method, one.model, round(one.created))
            for one in records if isinstance(one, Explanation)}
