"""Search by meaning: the explanations of an SAE whose embedding is near that of a text.

It needs static word embeddings (`sae.explain.embedding_files`); without them nothing is found.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import LatentExplanation
from sae.errors import UserError
from sae.explain.embedding_files import has_embedder

if TYPE_CHECKING:
    from sae.explain.embedding import StaticEmbedder

log = logging.getLogger(__name__)

NEAR = 0.3  # the cosine from which a text is near: unrelated texts rarely exceed 0.2
LIMIT = 20
_KEPT = 4  # SAEs whose embedded explanations are kept
_TEXTS = select(LatentExplanation.latent, LatentExplanation.text)

_embedded: OrderedDict[str, tuple[list[tuple[int, str]], NDArray[np.float32]]] = OrderedDict()
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
    rows: list[tuple[int, str]] = [
        (latent, said) for latent, said in db.execute(_TEXTS.where(LatentExplanation.sae_id == sae_id))]
    if not rows:
        return []
    with _lock:
        known = _embedded.get(sae_id)
        if known is None or known[0] != rows:
            known = _embedded[sae_id] = rows, embedder.encode([said for _, said in rows])
        _embedded.move_to_end(sae_id)
        while len(_embedded) > _KEPT:
            _embedded.popitem(last=False)
    cosine = known[1] @ embedder.encode([text])[0]
    found = [int(i) for i in cosine.argsort()[::-1][:LIMIT] if cosine[i] >= NEAR]
    return [(*rows[i], float(cosine[i])) for i in found]
