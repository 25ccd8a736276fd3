"""The embedding scorer: are the texts in which the latent fires nearer to its explanation than the others?  No torch.

The value is the AUC of the cosine between the explanation and a text.  It needs no language model, only static word
embeddings: those of the extra `embedding` (the files in the package wordllama), or a folder in the layout of model2vec
with `model.safetensors`, which has `embeddings` [V, D], and `tokenizer.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from sae.errors import UserError
from sae.explain import measures
from sae.explain.embedding_files import PACKAGE, embedder_folder, package_files
from sae.explain.examples import SORTS, Examples
from sae.explain.judging import MIN_POSITIVES
from sae.explain.records import Explanation, Score

QUERY = "text about: "


class Embedder(Protocol):
    """A model that maps texts to unit vectors."""

    name: str

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one row of length 1 for each text."""


class StaticEmbedder:
    """Word embeddings without a network: a text is the mean of its tokens' rows."""

    def __init__(self, name: str, tokenizer: Tokenizer, table_VD: NDArray[np.float32], unknown: int | None) -> None:
        self.name, self._tokenizer, self._table_VD, self._unknown = name, tokenizer, table_VD, unknown

    @classmethod
    def load(cls, folder: str) -> StaticEmbedder:
        """Read a folder.  Raises UserError (field `embedding_model`)."""
        path = Path(folder)
        return cls._read(path.name, path / "model.safetensors", path / "tokenizer.json", folder)

    @classmethod
    def of_package(cls) -> StaticEmbedder:
        """Read the embeddings of the extra.  Raises UserError (field `embedding_model`) if it is not installed."""
        files = package_files()
        if files is None:
            raise UserError("embedding_model: give a folder with embeddings, or install saescope[embedding]",
                            "embedding_model")
        return cls._read(PACKAGE, *files, PACKAGE)

    @classmethod
    def _read(cls, name: str, weights: Path, vocabulary: Path, said: str) -> StaticEmbedder:
        try:
            tensors = load_file(weights)
            tokenizer = Tokenizer.from_file(str(vocabulary))
            table = next(tensors[name] for name in ("embeddings", "embedding.weight") if name in tensors)
        except Exception as error:  # the tokenizer's library raises this class itself
            raise UserError(f"embedding_model: {said} is not a folder with static embeddings (model.safetensors and "
                            f"tokenizer.json): {type(error).__name__}", "embedding_model") from None
        table = table.astype(np.float32)
        if "mapping" in tensors:  # tokens share rows
            table = table[tensors["mapping"]]
        if "weights" in tensors:  # of each token
            table = table * tensors["weights"].astype(np.float32)[:, None]
        tokenizer.no_padding()
        tokenizer.no_truncation()
        model = json.loads(tokenizer.to_str())["model"]
        unknown = tokenizer.token_to_id(model["unk_token"]) if isinstance(model.get("unk_token"), str) else None
        return cls(name, tokenizer, table, unknown)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        out = np.zeros((len(texts), self._table_VD.shape[1]), np.float32)
        for row, encoding in zip(out, self._tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True):
            ids = [i for i in encoding.ids if i != self._unknown and i < len(self._table_VD)]
            if ids:
                row[:] = self._table_VD[ids].mean(axis=0)
                row /= np.linalg.norm(row) + 1e-32
        return out


def find_embedder(folder: str = "") -> StaticEmbedder:
    """Return the embeddings in a folder; without one those that `SAESCOPE_EMBEDDING_MODEL` names, else of the extra.

    Raises UserError (field `embedding_model`) if there are none.
    """
    folder = embedder_folder(folder)
    return StaticEmbedder.load(folder) if folder else StaticEmbedder.of_package()


def embedding(embedder: Embedder, explanation: Explanation, examples: Examples, seed: int = 0) -> Score | None:
    """Score the AUC of the cosine.  Returns None if there are too few examples."""
    if len(examples.positives) < MIN_POSITIVES or len(examples.negatives) < MIN_POSITIVES:
        return None
    mixed = [*examples.positives, *examples.negatives]
    rows = embedder.encode([QUERY + explanation.text, *(one.excerpt.text() for one in mixed)])
    cosine = (rows[1:] @ rows[0]).astype(np.float64)
    truth = np.array([one.active for one in mixed], dtype=bool)
    sorts = {}
    for sort in SORTS:
        kept = np.array([one.active or one.sort == sort for one in mixed])
        if n := sum(one.sort == sort for one in mixed):
            sorts[sort] = {"n": n, "auc": measures.auc(truth[kept], cosine[kept])}
    low, high = measures.auc_interval(truth, cosine, seed)
    return Score(explanation.latent, "embedding", measures.auc(truth, cosine), len(mixed), explanation.id, low, high,
                 None, embedder.name, details={"sorts": sorts, "verified": examples.verified})
