"""Search by meaning: the explanations of an SAE whose embedding is near that of a text.

It needs static word embeddings (`sae.explain.embedding_files`); without them nothing is found.
"""

from __future__ import annotations

import logging
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from app.library.explanation_texts import Texts, texts_of
from sae.errors import UserError
from sae.explain.embedding_files import has_embedder

if TYPE_CHECKING:
    from sae.explain.embedding import StaticEmbedder

log = logging.getLogger(__name__)

NEAR = 0.3  # the cosine from which a text is near: unrelated texts rarely exceed 0.2
LIMIT = 20

_embedded: WeakKeyDictionary[Texts, NDArray[np.float32]] = WeakKeyDictionary()  # kept as long as the texts are
_lock = Lock()


@cache
def _embedder() -> StaticEmbedder | None:
    """Return the embeddings, read once in each process; None where there are none or they are damaged."""
    if not has_embedder():
        return None
    from sae.explain.embedding import find_embedder

    try:
        return find_embedder()
    except UserError as error:
        log.warning("search by meaning is off: %s", error)
        return None


def near(db: Session, sae_id: str, text: str) -> list[tuple[int, str, float]]:
    """Return (latent, explanation, cosine) of the explanations nearest to `text`, nearest first."""
    embedder = _embedder()
    if embedder is None or not text.strip():
        return []
    texts = texts_of(db, [sae_id]).get(sae_id)
    if texts is None:
        return []
    with _lock:
        known = _embedded.get(texts)
        if known is None:
            known = _embedded[texts] = embedder.encode([said for _, said, _ in texts.rows])
    cosine = known @ embedder.encode([text])[0]
    near = np.flatnonzero(cosine >= NEAR)
    best = near[np.argsort(-cosine[near], kind="stable")[:LIMIT]].tolist()
    return [(*texts.rows[i][:2], float(cosine[i])) for i in best]
