"""Vectors of anything in place of a language model: its "tokens" are items, and each has one activation.

The items of each file are one document.  Token 0 stands before every context, as BOS does, and is not counted;
token i + 1 is item i of all files.  An SAE is trained, measured and indexed on it like on any residual stream.  There
is nothing to write text with, and no logits.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from sae.errors import UserError
from sae.lm.item_files import ItemFile, fingerprint, item_files, item_texts
from sae.lm.load_settings import LoadSettings
from sae.lm.model_info import ModelInfo


class ItemModel:
    """A stand-in for `LanguageModel` made of the vectors of a folder."""

    bos_id, has_bos, start = 0, True, [0]
    dtype, rounding, format_name, way = torch.float32, torch.float32, "float32", ""
    settings = LoadSettings()
    special_ids = (0,)
    end_ids: frozenset[int] = frozenset()

    def __init__(self, info: ModelInfo, device: torch.device) -> None:
        self.info, self.device = info, device
        self.refused: dict[str, str] = {}
        self.files = item_files(Path(info.source))
        self.tokenizer = _Items(fingerprint(Path(info.source)), info.d_vocab)
        self._ends = list(accumulate(file.n_items for file in self.files))
        self._tables = [_table(file) for file in self.files]

    def vocabulary(self) -> tuple[list[bytes], list[bool]]:
        """Return what each item is, as a line of its own, and which tokens are no items."""
        return self._vocabulary, [True, *[False] * (self.info.d_vocab - 1)]

    @cached_property
    def _vocabulary(self) -> list[bytes]:
        return [b"", *(f"{text}\n".encode() for file in self.files for text in item_texts(file))]

    def activations(self, tokens_PS: Tensor, hook: str, *, autocast: bool = False) -> Tensor:
        """Return the vectors of the items, [P, S, D] float32, and 0 at token 0.  Raises UserError (field `model`)."""
        ids = tokens_PS.cpu().reshape(-1).numpy() - 1
        out_ND = torch.zeros(len(ids), self.info.d_model)
        file_N = np.searchsorted(self._ends, ids, side="right")
        for number, table in enumerate(self._tables):
            (rows,) = np.nonzero((file_N == number) & (ids >= 0))
            first = self._ends[number] - self.files[number].n_items
            out_ND[torch.from_numpy(rows)] = _rows(table, ids[rows] - first)
        if not torch.isfinite(out_ND).all():
            bad = int(ids[int((~torch.isfinite(out_ND)).any(dim=1).nonzero()[0])])
            file = bisect.bisect_right(self._ends, bad)
            raise UserError(f"model: item {bad - (self._ends[file] - self.files[file].n_items):,} of "
                            f"{self.files[file].path} has numbers that are not finite", "model")
        return out_ND.view(*tokens_PS.shape, -1).to(self.device)

    def activations_at(self, tokens_PS: Tensor, hooks: Sequence[str], *, autocast: bool = False) -> list[Tensor]:
        """Return the vectors once for each hook point; all hook points have the same ones."""
        return [self.activations(tokens_PS, hook) for hook in hooks]

    def share_weights(self) -> ItemModel:
        """Return this one: it keeps no state."""
        return self

    def reads_as(self, other: Any, hooks: Sequence[str]) -> bool:
        return True

    def unembedding(self, hook: str = "") -> NoReturn:
        """Raise UserError (field `site`): vectors lead to no logits."""
        raise UserError(f"site: {self.info.name} holds vectors and no language model, so there are no logits", "site")

    def encode_many(self, texts: Sequence[str], *, markup: bool = False) -> list[list[int]]:
        """Return no tokens: the items are given by their numbers."""
        return [[] for _ in texts]


class _Items:
    """The tokenizer of items, which only has an identity."""

    chat_template = None

    def __init__(self, digest: str, size: int) -> None:
        self._digest, self._size = digest, size

    def get_vocab(self) -> dict[str, int]:
        return {self._digest: self._size}

    def __len__(self) -> int:
        return self._size


def _table(file: ItemFile) -> Any:
    if file.path.suffix == ".npy":
        return np.load(file.path, mmap_mode="r", allow_pickle=False)
    return load_file(file.path)[file.tensor]


def _rows(table: Any, ids: np.ndarray) -> Tensor:
    if isinstance(table, Tensor):
        return table[torch.from_numpy(ids)].float()
    return torch.from_numpy(np.asarray(table[ids], dtype=np.float32))
