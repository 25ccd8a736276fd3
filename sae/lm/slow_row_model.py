"""A language model read row by row with its own attention: the slower right way for architectures of any kind.

`RowModel` puts an attention function of this program in place of the model's own, which not every architecture takes.
Here the plain Hugging Face model reads each text by itself, with forward hooks for edits.  After a prompt it reads
one token at a time with the model's own cache.  Where that cache gives other logits than a forward pass over the
whole text, every step reads the whole text again; the sites then get back what they held after their edits, because a
position is edited once, when it is read first.

Shapes: M rows of a step, S positions, D width, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sae.errors import UserError
from sae.lm.bridge import Edit, Edits, LanguageModel
from sae.lm.dataflow import loosened, same
from sae.lm.reach import SHORT, reading_length, sample_text
from sae.lm.row_model import RowModel, Rows

_CACHES = ("past_key_values", "cache_params", "state")  # the names under which models give their cache
_STEPS = 4  # of the check


class TextRows(Rows):
    """Texts row by row: their tokens, the model's cache, and edited activations by hook and position."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.tokens: dict[int, list[int]] = {}
        self.caches: dict[int, tuple[str, Any]] = {}
        self.edited: dict[int, dict[str, Tensor]] = {}  # row -> hook -> [1, S, …]

    def copy(self, source: Rows, row: int, target: int, length: int) -> None:
        """Take a row of `source`, which holds `length` tokens, into row `target`."""
        assert isinstance(source, TextRows)
        assert len(source.tokens[row]) == length
        self.tokens[target] = list(source.tokens[row])
        if row in source.caches:
            self.caches[target] = copy.deepcopy(source.caches[row])
        self.edited[target] = dict(source.edited.get(row, {}))

    def clear(self, row: int, length: int) -> None:
        """Forget a row."""
        for kept in (self.tokens, self.caches, self.edited):
            kept.pop(row, None)


class SlowRowModel(RowModel):
    """A language model for `TextRows`.  Must be used by one thread at a time.

    Raises UserError (field `model`) for a model whose forward passes do not give the bridge's logits.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.cached = True
        super().__init__(lm)

    def order(self, rows: Sequence[int]) -> list[int | None]:
        """Return the rows of a step: those that are read, each by itself."""
        return [*rows]

    def new_rows(self, capacity: int) -> Rows:
        """Return room for the texts of a batch."""
        return TextRows(capacity)

    @cached_property
    def _model(self) -> Any:
        return self.lm.plain()

    @torch.no_grad()
    def read(
        self, tokens: Sequence[int], edits: Edits | None = None, rows: Rows | None = None, row: int = 0, *,
        whole: bool = False,
    ) -> Tensor:
        """Read a text from its beginning into a row; the next-token logits [V] after it, or [S, V] with `whole`."""
        kept: dict[str, Tensor] = {}
        given = {hook: _keeping(hook, edit, kept) for hook, edit in (edits or {}).items()}
        logits, cache = self._run([list(tokens)], given, keep_cache=rows is not None and self.cached)
        if rows is not None:
            assert isinstance(rows, TextRows)
            rows.tokens[row] = list(tokens)
            rows.edited[row] = kept
            if cache is not None:
                rows.caches[row] = cache
        return logits[0] if whole else logits[0, -1]

    @torch.no_grad()
    def read_many(self, texts: Sequence[Sequence[int]], edits: Edits | None = None) -> Tensor:
        """Return the next-token logits [P, V] after P texts of one length, read together."""
        return self._run([list(text) for text in texts], edits or {}, keep_cache=False)[0][:, -1]

    @torch.no_grad()
    def step(
        self, rows: Rows, order: Sequence[int | None], tokens: Mapping[int, int], lengths: Mapping[int, int],
        edits: Edits | None = None,
    ) -> Tensor:
        """Read one token in each of the rows of `tokens`; next-token logits [M, V] in the order of `order`.

        Edits see [M, 1, D], in which the rows that are read later still hold zeros.
        """
        assert isinstance(rows, TextRows)
        seen: dict[str, Tensor] = {}  # by hook: [M, 1, D] as read so far
        out_MV = torch.zeros(len(order), self.lm.info.d_vocab, device=self.device)
        for place, row in enumerate(order):
            if row is None or row not in tokens:
                continue
            given = {hook: _at_row(hook, edit, place, len(order), seen) for hook, edit in (edits or {}).items()}
            logits_V = self._next(rows, row, tokens[row], given)
            out_MV[place, : len(logits_V)] = logits_V
        return out_MV

    def _next(self, rows: TextRows, row: int, token: int, edits: Edits) -> Tensor:
        """Read one more token into a row; the logits [V] after it."""
        if self.cached:
            logits, cache = self._run([[token]], edits, cache=rows.caches[row])
            assert cache is not None
            rows.caches[row] = cache
        else:
            before = rows.edited.setdefault(row, {})
            again = {hook: _again(hook, edits.get(hook), before) for hook in {**before, **edits}}
            logits, _ = self._run([[*rows.tokens[row], token]], again, keep_cache=False)
        rows.tokens[row].append(token)
        return logits[0, -1]

    def _run(
        self, ids: list[list[int]], edits: Edits, *, keep_cache: bool = True, cache: tuple[str, Any] | None = None,
    ) -> tuple[Tensor, tuple[str, Any] | None]:
        past = {} if cache is None else {cache[0]: cache[1]}
        with self._places.hooked(edits, (len(ids), len(ids[0]))):
            out = self._model(input_ids=torch.tensor(ids, device=self.device), use_cache=keep_cache, **past)
        found = next(((name, out[name]) for name in _CACHES if out.get(name) is not None), None) if keep_cache else None
        return out.logits.float(), found

    def _check(self) -> None:
        """Raise UserError unless the plain model gives the bridge's logits; find out whether its cache will do."""
        tokens = sample_text(self.lm, SHORT if self.lm.way else reading_length(self.lm))
        try:
            expected = self.lm.logits(torch.tensor([tokens], device=self.device))[0]
            if not same(self.read(tokens, whole=True), expected, loosened(1e-3, self.lm.dtype)):
                raise UserError(f"model: {self.lm.info.name} gives other logits than transformer_lens computes for it",
                                "model")
        except UserError:
            raise
        except Exception as error:  # whatever an unusual architecture raises
            raise UserError(f"model: {self.lm.info.name} cannot be decoded here: {type(error).__name__}: {error}",
                            "model") from error
        self.cached = self.lm.way != "whole" and self._cache_holds(tokens, expected)

    def _cache_holds(self, tokens: list[int], expected_SV: Tensor) -> bool:
        n = max(1, len(tokens) - _STEPS)
        try:
            rows = self.new_rows(len(tokens))
            self.read(tokens[:n], rows=rows)
            found = [self.step(rows, [0], {0: tokens[i]}, {0: i})[0] for i in range(n, len(tokens))]
        except Exception:  # whatever an unusual architecture raises
            return False
        return same(torch.stack(found), expected_SV[n:], loosened(1e-3, self.lm.dtype))


def open_row_model(lm: LanguageModel) -> RowModel:
    """Return the fast row model where it computes this model, else the slow one.  Raises UserError (field `model`)."""
    if not isinstance(lm, LanguageModel):
        raise UserError(f"model: {lm.info.name} holds vectors and no language model, so it reads and writes no text",
                        "model")
    if lm.way in ("cached", "whole"):
        return SlowRowModel(lm)
    try:
        return RowModel(lm)
    except UserError:
        return SlowRowModel(lm)


def _keeping(hook: str, edit: Edit, kept: dict[str, Tensor]) -> Edit:
    def keep(x: Tensor) -> Tensor:
        kept[hook] = edit(x)
        return kept[hook]

    return keep


def _at_row(hook: str, edit: Edit, place: int, n_rows: int, seen: dict[str, Tensor]) -> Edit:
    """The edit of [M, 1, D] as one of a single row [1, 1, D]."""
    def at_row(x: Tensor) -> Tensor:
        if hook not in seen:
            seen[hook] = x.new_zeros(n_rows, *x.shape[1:])
        seen[hook][place] = x[0]
        return edit(seen[hook].clone())[place : place + 1]

    return at_row


def _again(hook: str, edit: Edit | None, before: dict[str, Tensor]) -> Edit:
    """Earlier positions get what they held after their edit, the last one is edited now."""
    def again(x: Tensor) -> Tensor:
        old = before.get(hook, x[:, :0])
        between = x[:, old.shape[1] : -1]  # read while nothing was edited here
        last = x[:, -1:] if edit is None else edit(x[:, -1:])
        before[hook] = torch.cat([old, between, last], dim=1)
        return before[hook]

    return again
