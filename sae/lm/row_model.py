"""A language model whose results for a text do not depend on the other texts in its batch.

Two matrix products of different shapes round differently (by 1e-5 in a logit), which is enough to flip a sampled
token.  So every text goes through products of the same shapes, alone or in a batch:

- a prompt is read alone, as [1, S];
- after it, one token is read at a time, always as one of `ROWS` rows; the others are empty or other texts.
  In a product of fixed shape a row's result depends neither on its index nor on the other rows
  (`tests/unit/sae/lm/test_row_model.py` checks this bit for bit).  A step of few rows costs less for few
  texts; it is used where it is found to give the same bits;
- attention reads only a row's own keys, up to the row's length rounded up to a power of two.  So its shape
  depends on the row alone, too.

The model is the plain Hugging Face one with forward hooks in place of hook points.  It computes the same as a
transformer_lens bridge at less than half the cost per token.

Shapes: S positions of a prompt, R = ROWS rows, M rows of a step, H heads, K heads of keys, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sae.errors import UserError
from sae.lm.bridge import CacheBase, Edits, LanguageModel
from sae.lm.dataflow import loosened
from sae.lm.packed_layers import pack
from sae.lm.places import Places
from sae.lm.reach import SHORT, reading_length, sample_text

ROWS = 16
_FEW = 4  # rows of a step for at most this many texts, where that is safe
_SHORTEST = 32  # the smallest power of two of keys that is read
_ROOM = 256  # tokens of the smallest capacity
_STEPS = 3  # of the comparison with the bridge
_ONE_BY_ONE = 5  # up to this many rows attend faster one after the other, with the same bits


def capacity_of(length: int) -> int:
    """Return the capacity to reserve for a text of `length` tokens: a power of two."""
    return max(_ROOM, 1 << (length - 1).bit_length())


class Rows:
    """Keys and values of up to R texts of at most `capacity` tokens, by layer: each [R, K, capacity, D / H]."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.keys.values(), *self.values.values()))

    def room(self, layer: int, like_PKSD: Tensor, values_PKSD: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self.keys:
            for store, like in ((self.keys, like_PKSD), (self.values, values_PKSD)):
                store[layer] = like.new_zeros(ROWS, like.shape[1], self.capacity, like.shape[3])
        return self.keys[layer], self.values[layer]

    def copy(self, source: Rows, row: int, target: int, length: int) -> None:
        """Take the first `length` positions of a row of `source` into row `target`."""
        for layer, keys in source.keys.items():
            values = source.values[layer]
            own_keys, own_values = self.room(layer, keys, values)
            own_keys[target, :, :length] = keys[row, :, :length]
            own_values[target, :, :length] = values[row, :, :length]

    def clear(self, row: int, length: int) -> None:
        """Set the first `length` positions of a row to zero."""
        for kept in (*self.keys.values(), *self.values.values()):
            kept[row, :, :length] = 0


class _Prompt:
    """One text read from its beginning with causal attention.  Its keys are kept in a row of `rows`, if given."""

    def __init__(self, rows: Rows | None, row: int) -> None:
        self.rows, self.row = rows, row

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, settings: dict[str, Any]) -> Tensor:
        if self.rows is not None:
            keys, values = self.rows.room(layer, k, v)
            keys[self.row, :, : k.shape[2]], values[self.row, :, : v.shape[2]] = k[0], v[0]
        n = q.shape[2]
        window = settings["window"]
        if window is None or window >= n:
            return _attend(q, k, v, None, settings)
        back = torch.arange(n, device=q.device)[:, None] - torch.arange(n, device=q.device)
        return _attend(q, k, v, (back >= 0) & (back < window), settings)


class _Step:
    """One token of each row in `order` that is not None.  `lengths` are the numbers of tokens read before it."""

    def __init__(
        self, rows: Rows, order: Sequence[int | None], lengths: Mapping[int, int], device: torch.device
    ) -> None:
        self.rows, self._device = rows, device
        self._order = order
        self._whole = list(order) == list(range(ROWS))
        self._lengths = [0 if row is None else lengths.get(row, 0) for row in order]
        used = [i for i, row in enumerate(order) if row is not None and row in lengths]
        first = used == list(range(len(used)))  # no copy is needed then
        self._used = slice(len(used)) if first else torch.tensor(used, device=device)
        self._row = torch.tensor([order[i] for i in used], device=device)
        self._position = torch.tensor([self._lengths[i] for i in used], device=device)
        self._buckets: dict[int, list[int]] = {}  # keys to read -> indices into the order
        for i in used:
            self._buckets.setdefault(max(_SHORTEST, 1 << self._lengths[i].bit_length()), []).append(i)
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, settings: dict[str, Any]) -> Tensor:
        keys, values = self.rows.room(layer, k, v)
        keys[self._row, :, self._position] = k[self._used, :, 0]
        values[self._row, :, self._position] = v[self._used, :, 0]
        out: Tensor | None = None
        for size, indices in self._buckets.items():
            mask = self._mask(size, settings["window"], q.dtype)
            for first, last, row in self._spans(indices, q.is_cuda):
                k1, v1 = (kept[row : row + last - first, :, :size] for kept in (keys, values))
                found = _attend(q[first:last], k1, v1, mask[first:last], settings)
                if last - first == len(q) == len(indices):
                    return found
                if out is None:
                    out = q.new_zeros(*q.shape[:3], v.shape[3])
                own = [i for i in indices if first <= i < last]
                if len(own) == last - first:
                    out[first:last] = found
                else:
                    out[own] = found[[i - first for i in own]]
        return q.new_zeros(*q.shape[:3], v.shape[3]) if out is None else out

    def _spans(self, indices: list[int], whole: bool) -> list[tuple[int, int, int]]:
        """Return (first, last + 1, row of the first) of spans of the order that are neighbouring rows, too.

        Together they hold all `indices`, in one span if the order is all rows and they are many.
        """
        if self._whole and (whole or len(indices) > _ONE_BY_ONE):
            return [(0, ROWS, 0)]
        spans: list[tuple[int, int, int]] = []
        for i in indices:
            row = self._order[i]
            assert row is not None
            if spans and spans[-1][1] == i and spans[-1][2] + i - spans[-1][0] == row:
                spans[-1] = spans[-1][0], i + 1, spans[-1][2]
            else:
                spans.append((i, i + 1, row))
        return spans

    def _mask(self, size: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return the mask [M, 1, 1, size]: 0 where a row's token may attend, −∞ elsewhere."""
        if (size, window) not in self._masks:
            last = torch.tensor(self._lengths, device=self._device)[:, None]
            back = last - torch.arange(size, device=self._device)
            seen = (back >= 0) if window is None else (back >= 0) & (back < window)
            seen[:, 0] |= ~seen.any(dim=1)  # the output of rows longer than `size` is not used
            mask = torch.zeros(len(self._order), 1, 1, size, device=self._device, dtype=dtype)
            self._masks[size, window] = mask.masked_fill_(~seen[:, None, None, :], -torch.inf)
        return self._masks[size, window]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, settings: dict[str, Any]) -> Tensor:
    """Return attention [P, H, S, D / H].  Without a mask it is causal.

    On the CPU, one token of many rows goes through plain products.  On some processors the last bit of torch's fused
    attention depends on the memory in which each thread computes.
    """
    cap, (P, H, S, D), (_, K, T, _) = settings["softcap"], q.shape, k.shape
    if cap is None and (mask is None or S > 1 or q.is_cuda):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=settings["scaling"], enable_gqa=H != K)
    grouped = (q * (settings["scaling"] or D**-0.5)).reshape(P, K, H // K * S, D)
    scores = (grouped @ k.transpose(2, 3)).view(P, H, S, T)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    if mask is None:
        mask = torch.ones(S, T, dtype=torch.bool, device=q.device).tril()
    masked = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    shares = masked.softmax(dim=-1)
    out: Tensor = (shares.view(P, K, H // K * S, T) @ v).view(P, H, S, v.shape[3])
    return out


class _Cache(CacheBase):  # type: ignore[misc]  # transformers is untyped
    """A cache that keeps no keys: it tells the attention its layer, and the attention keeps them."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any) -> Any:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


# The current reading of this thread: transformers has no argument that could pass it to attention functions.
_reading: ContextVar[_Prompt | _Step] = ContextVar("reading")


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, *,
    scaling: float | None = None, sliding_window: int | None = None, softcap: float | None = None,
    s_aux: Tensor | None = None, **_kwargs: Any,
) -> tuple[Tensor, None]:
    if s_aux is not None or attention_mask is not None:
        raise NotImplementedError("attention with sinks or its own mask")
    settings = {"scaling": scaling, "window": sliding_window, "softcap": softcap}
    out = _reading.get().attend(module.layer_idx, query, key, value, settings)  # type: ignore[arg-type]
    return out.transpose(1, 2).contiguous(), None


class RowModel:
    """A language model that reads into `Rows`.  Must be used by one thread at a time.

    It is compared with the bridge once, when it is made.  Raises UserError (field `model`) for a model whose attention
    it cannot compute.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.device = lm.device
        self.packed_bytes = 0  # of the copies of weights
        self._few = 0
        self._check()

    def order(self, rows: Sequence[int]) -> list[int | None]:
        """Return the rows of a step that reads these rows: a few of them, or all."""
        if len(rows) <= self._few:
            return [*rows, *[None] * (self._few - len(rows))]
        return list(range(ROWS))

    @cached_property
    def _model(self) -> Any:
        model = self.lm.plain(_attention)
        self.packed_bytes = pack(model)
        return model

    @cached_property
    def _places(self) -> Places:
        return Places(self.lm, self._model, lambda tokens_1S: self.read(tokens_1S[0].tolist()))

    def new_rows(self, capacity: int) -> Rows:
        """Return room for the texts of a batch."""
        return Rows(capacity)

    @torch.no_grad()
    def read(
        self, tokens: Sequence[int], edits: Edits | None = None, rows: Rows | None = None, row: int = 0, *,
        whole: bool = False,
    ) -> Tensor:
        """Read a text from its beginning into a row; return the next-token logits [V] after it, float32.

        With `whole`, return the logits after every token, [S, V].  Edits see [1, S, D].
        """
        logits = self._forward(_Prompt(rows, row), [list(tokens)], [list(range(len(tokens)))], edits, whole)
        return logits[0] if whole else logits[0, -1]

    @torch.no_grad()
    def read_many(self, texts: Sequence[Sequence[int]], edits: Edits | None = None) -> Tensor:
        """Return next-token logits [P, V] after P texts of one length, read together.  Edits see [P, S, D].

        This is for measurements, where the last bits do not matter.
        """
        ids = [list(text) for text in texts]
        return self._forward(_Prompt(None, 0), ids, [list(range(len(ids[0])))] * len(ids), edits, False)[:, -1]

    @torch.no_grad()
    def step(
        self, rows: Rows, order: Sequence[int | None], tokens: Mapping[int, int], lengths: Mapping[int, int],
        edits: Edits | None = None,
    ) -> Tensor:
        """Read one token in each of the rows of `tokens`; return next-token logits [M, V] in the order of `order`.

        `lengths` are the numbers of tokens that each of these rows held before.  Edits see [M, 1, D].
        """
        ids = [[0 if row is None else tokens.get(row, 0)] for row in order]
        positions = [[0 if row is None else lengths.get(row, 0)] for row in order]
        return self._forward(_Step(rows, order, lengths, self.device), ids, positions, edits, False)[:, -1]

    def _forward(
        self, reading: _Prompt | _Step, ids: list[list[int]], positions: list[list[int]], edits: Edits | None,
        whole: bool,
    ) -> Tensor:
        token = _reading.set(reading)
        try:
            with self._places.hooked(edits or {}, (len(ids), len(ids[0]))):
                logits: Tensor = self._model(
                    input_ids=torch.tensor(ids, device=self.device),
                    position_ids=torch.tensor(positions, device=self.device), past_key_values=_Cache(),
                    use_cache=True, logits_to_keep=0 if whole else 1).logits.float()
        finally:
            _reading.reset(token)
        return logits

    def _check(self) -> None:
        """Raise UserError unless prompt and step give the bridge's logits; find out whether few rows will do."""
        tokens = sample_text(self.lm, SHORT if self.lm.way else reading_length(self.lm))
        n = len(tokens) - _STEPS
        orders: list[list[int | None]] = [list(range(ROWS)), [None, None, 1, None]]
        try:
            rows = Rows(capacity_of(len(tokens)))
            found = [*self.read(tokens[:n], rows=rows, row=1, whole=True)]
            for i in range(n, len(tokens)):
                many, few = (self.step(rows, order, {1: tokens[i]}, {1: i}) for order in orders)
                found.append(many[1])
            expected = self.lm.logits(torch.tensor([tokens], device=self.device))[0]
            near = loosened(1e-3, self.lm.rounding)
            same = torch.allclose(torch.stack(found), expected, atol=near * float(expected.std()) + 1e-4, rtol=near)
        except Exception as error:  # whatever an unusual architecture raises
            raise UserError(f"model: {self.lm.info.name} cannot be decoded here: {type(error).__name__}: {error}",
                            "model") from error
        if not same:
            raise UserError(f"model: {self.lm.info.name} cannot be decoded here: its attention does something that "
                            "this program does not compute", "model")
        self._few = _FEW if self.device.type == "cpu" and torch.equal(few[2], many[1]) else 0
