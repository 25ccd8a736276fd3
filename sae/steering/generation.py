"""Batched generation for several runs: each forward pass produces the next token of every text.

A run (`Run`) is one request: its columns and samples, each a `Column` that grows.  Runs join between
two tokens and leave when they are finished or stopped.  A run gets the same bits as if it were alone in the
batch.  That holds for the forward passes (`sae/lm/row_model.py`), for the edits
(`sae/steering/batched_edits.py`), and for the draws, which depend only on seed, step and token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError
from sae.lm.row_model import ROWS, RowModel, Rows, capacity_of
from sae.steering.batched_edits import RowEdits
from sae.steering.interventions import Steering
from sae.steering.request import Intervention, Sampling, SteeredPositions, SteerRequest, column_key
from sae.steering.sampling import Draw, draw_each, seed_of


@dataclass
class Column:
    """One text as it grows.

    `acts[i]` belongs to the i-th token read, BOS first.  It has one value per intervention, read before any edit
    of its site.  The newest token is read one step later, so `acts` may be one shorter than prompt and output
    together.  `finish` is "length", "eos" or "stop", or None while the text is being written.
    """

    name: str
    output: list[int] = field(default_factory=list)
    acts: list[list[float]] = field(default_factory=list)
    finish: str | None = None


@dataclass
class _Text:
    """The state of a column in a batch.

    `length` tokens were read.  `pending` is the next token to read, or −1 while the prompt is read.
    """

    run: Run
    column: Column = field(default_factory=lambda: Column(""))
    steering: Steering = field(default_factory=lambda: Steering([], {}))
    steered: bool = False
    seed: int = 0
    length: int = 0
    seen: set[int] = field(default_factory=set)
    tail: bytes = b""
    pending: int = -1


class Run:
    """One request while it is written.  `SteerRequest.keys` gives the names of its columns."""

    def __init__(
        self, prompt: Sequence[int], steering: Steering, control: Steering | None, sampling: Sampling,
        columns: Sequence[str] = ("baseline", "steered"), samples: int = 1,
    ) -> None:
        self.prompt, self.sampling = list(prompt), sampling
        self._steering, self._control, self._names, self.samples = steering, control, list(columns), samples
        self.columns = [Column(column_key(name, sample)) for sample in range(samples) for name in columns]
        self.prompt_acts: list[list[float]] = []  # unsteered
        self.error: UserError | None = None

    @classmethod
    def of(cls, request: SteerRequest, prompt: Sequence[int], saes: Mapping[str, Autoencoder],
           special_ids: Sequence[int]) -> Run:
        """Make the run of a request.  Raises UserError if an intervention does not fit its SAE."""
        def steering(control_seed: int | None) -> Steering:
            return Steering(request.interventions, saes, request.where, special_ids, control_seed)

        control = steering(request.control_seed) if "control" in request.columns else None
        return cls(prompt, steering(None), control, request.sampling, request.columns, request.samples)

    @property
    def finished(self) -> bool:
        return self.error is not None or all(column.finish for column in self.columns)

    def of_column(self, name: str) -> tuple[Steering, bool]:
        """Return the interventions of a column, and whether the column applies them."""
        if name == "control":
            assert self._control is not None
            return self._control, True
        return self._steering, name == "steered"

    @property
    def names(self) -> list[str]:
        """Return the names of the columns, without samples."""
        return self._names


class _Batch:
    """R rows of one capacity, and the texts in them."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.texts: dict[int, _Text] = {}
        self.order: list[int | None] = []
        self.edits: RowEdits | None = None  # rebuilt with the order whenever a text joins or leaves

    @property
    def free(self) -> list[int]:
        return [row for row in range(ROWS) if row not in self.texts]


class TextGenerator:
    """A generator of texts for many runs with one language model, to be used by one thread."""

    def __init__(self, model: RowModel) -> None:
        self.model = model
        self._pieces = model.lm.vocabulary()[0]
        self._ends = model.lm.end_ids
        self._batches: list[_Batch] = []

    @property
    def n_texts(self) -> int:
        """Return the number of texts that are being written."""
        return sum(len(batch.texts) for batch in self._batches)

    def join(self, run: Run) -> Iterator[None]:
        """Read the run's prompt for each column and draw the first tokens; yield between forward passes.

        The run takes part in `step` once the iteration has ended.
        """
        total = len(run.prompt) + run.sampling.length
        first: dict[str, tuple[_Batch, int]] = {}  # by column: the row that holds its prompt
        begun: list[tuple[_Batch, int, _Text, Tensor]] = []
        unsteered: tuple[Tensor, list[list[float]], tuple[_Batch, int]] | None = None
        try:
            for name in run.names:
                steering, steered = run.of_column(name)
                tokens_1S = torch.tensor([run.prompt])
                mask_1S = steering.mask(tokens_1S, 0, len(run.prompt)) & steered
                edited = bool(mask_1S.any())
                batch, row = self._take(total, run)
                if unsteered is not None and not edited:  # an unsteered prompt is read once
                    logits_V, acts, (source, source_row) = unsteered
                    self._copy(source, source_row, batch, row, len(run.prompt))
                else:
                    logits_V, acts = self._read(run, steering, mask_1S, batch, row)
                    if not edited:
                        unsteered = (logits_V, acts, (batch, row))
                    yield
                first[name] = batch, row
                if not run.prompt_acts or not edited:
                    run.prompt_acts = acts
                for sample in range(run.samples):
                    if sample:
                        batch, row = self._take(total, run)
                        self._copy(*first[name], batch, row, len(run.prompt))
                    column = next(c for c in run.columns if c.name == column_key(name, sample))
                    column.acts = [list(values) for values in acts]
                    text = _Text(run, column, steering, steered, seed_of(run.sampling, sample), len(run.prompt),
                                 set(run.prompt))
                    batch.texts[row] = text
                    begun.append((batch, row, text, logits_V))
            self._draw([text for _, _, text, _ in begun], [logits_V.numpy() for *_, logits_V in begun])
            for batch in self._batches:
                batch.edits = None
        except BaseException:
            self.leave(run)
            raise
        if run.error is not None:
            self.leave(run)

    def step(self) -> None:
        """Generate one token for every text.

        A finished text reads its last token for the activations, and then leaves.
        """
        for batch in self._batches:
            ready = {row: text for row, text in batch.texts.items() if text.pending >= 0}
            if ready:
                self._step(batch, ready)
        self._batches = [batch for batch in self._batches if batch.texts]

    def holds(self, run: Run) -> bool:
        """Return whether a text of the run still has a token to read."""
        return any(text.run is run for batch in self._batches for text in batch.texts.values())

    def clear(self) -> None:
        """Forget all texts."""
        self._batches = []

    def leave(self, run: Run) -> None:
        """Remove the run's texts from the batches, finished or not."""
        for batch in self._batches:
            for row in [row for row, text in batch.texts.items() if text.run is run]:
                self._free(batch, row)

    # ---- a step

    def _step(self, batch: _Batch, ready: Mapping[int, _Text]) -> None:
        if batch.edits is None:
            batch.order = self.model.order(list(ready))
            batch.edits = RowEdits(
                {i: (ready[row].steering, ready[row].steered) for i, row in enumerate(batch.order)
                 if row is not None and row in ready},
                len(batch.order), self.model.device)
        index_of = {row: i for i, row in enumerate(batch.order) if row is not None}
        steered = [False] * len(batch.order)
        for row, text in ready.items():
            steered[index_of[row]] = text.steered and text.steering.changes(
                text.pending, text.length, len(text.run.prompt))
        edits, acts_MN = batch.edits.edits(steered)
        logits_MV = self.model.step(
            batch.rows, batch.order, {row: text.pending for row, text in ready.items()},
            {row: text.length for row, text in ready.items()}, edits).cpu().numpy()
        acts = acts_MN.tolist()
        drawn: dict[int, _Text] = {}  # by index into the order
        for row, text in ready.items():
            text.length += 1
            text.column.acts.append(acts[index_of[row]][: len(text.steering.interventions)])
            if text.column.finish:
                self._free(batch, row)
            else:
                drawn[index_of[row]] = text
        self._draw(list(drawn.values()), [logits_MV[index] for index in drawn])
        for run in {id(t.run): t.run for t in ready.values() if t.run.error is not None}.values():
            self.leave(run)

    def _draw(self, texts: Sequence[_Text], logits_RV: Sequence[NDArray[np.float32]]) -> None:
        """Add a token to each text.  A run of which one text has no numbers any more gets its error."""
        found = draw_each(logits_RV, [
            Draw(text.run.sampling, text.seed, len(text.column.output), text.seen) for text in texts])
        for text, token in zip(texts, found, strict=True):
            if isinstance(token, UserError):
                text.run.error = text.run.error or token
            elif text.run.error is None:
                self._append(text, token)

    def _append(self, text: _Text, token: int) -> None:
        sampling, column = text.run.sampling, text.column
        column.output.append(token)
        text.pending = token
        text.seen.add(token)
        if sampling.stop_at_eos and token in self._ends:
            column.finish = "eos"
        elif self._stops(text, token):
            column.finish = "stop"
        elif len(column.output) == sampling.length:
            column.finish = "length"

    def _stops(self, text: _Text, token: int) -> bool:
        """Return whether the token completes a stop string."""
        stops = [stop.encode() for stop in text.run.sampling.stop]
        if not stops:
            return False
        kept = max(map(len, stops)) - 1  # bytes of the text before the token that a stop string may include
        text.tail = text.tail[max(len(text.tail) - kept, 0):] + self._pieces[token]
        return any(stop in text.tail for stop in stops)

    # ---- rows

    def _take(self, total: int, run: Run) -> tuple[_Batch, int]:
        """Reserve a free row for a text of `total` tokens."""
        capacity = capacity_of(total)
        for batch in self._batches:
            if batch.rows.capacity == capacity and batch.free:
                break
        else:
            batch = _Batch(self.model.new_rows(capacity))
            self._batches.append(batch)
        row = batch.free[0]
        batch.texts[row] = _Text(run)
        return batch, row

    def _free(self, batch: _Batch, row: int) -> None:
        text = batch.texts.pop(row)
        # The keys of a text that was steered too far are no numbers, and a mask does not hide these from the next text.
        batch.rows.clear(row, max(text.length, len(text.run.prompt)) + 1)
        batch.edits = None

    def _copy(self, source: _Batch, source_row: int, target: _Batch, row: int, length: int) -> None:
        target.rows.copy(source.rows, source_row, row, length)

    def _read(
        self, run: Run, steering: Steering, mask_1S: Tensor, batch: _Batch, row: int
    ) -> tuple[Tensor, list[list[float]]]:
        readings: dict[int, Tensor] = {}
        edits = steering.edits(mask_1S.to(self.model.device), readings)
        logits_V = self.model.read(run.prompt, edits, batch.rows, row).cpu()
        acts_NS = torch.stack([readings[index][0] for index in range(len(readings))])
        return logits_V, acts_NS.T.tolist()


def generate(
    model: RowModel, prompt: Sequence[int], saes: Mapping[str, Autoencoder],
    interventions: Sequence[Intervention], where: SteeredPositions, sampling: Sampling,
) -> Iterator[list[Column]]:
    """Write `baseline` and `steered` together, and yield both (always the same objects) after each token.

    Closing the iterator stops the run.  `prompt` begins with BOS.
    """
    steering = Steering(interventions, saes, where, model.lm.special_ids)
    yield from write(model, Run(prompt, steering, None, sampling))


def write(model: RowModel, run: Run) -> Iterator[list[Column]]:
    """Write a single run, and yield its columns after each token.  Raises UserError if the run fails."""
    generator = TextGenerator(model)
    for _ in generator.join(run):
        pass
    while True:
        if run.error is not None:
            raise run.error
        yield run.columns
        if not generator.n_texts:
            return
        generator.step()
