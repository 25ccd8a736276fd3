"""Activations kept on disk: one pass of the language model serves many runs, and several sites at once.

    meta.json            the sites, the text and the size; it is written last, so a folder without it is unfinished
    chunk-00000.json     the SHA-256 of each file of a chunk, written after them
    chunk-00000-<i>.bin  site i of the chunk: [rows, width] in bfloat16, little-endian

The contexts are the first ones of the training split in the order of seed 0.  A context's tokens, BOS included, are
consecutive rows.  Training reads whole contexts in any order.

Shapes: N tokens, W the widths of the chosen sites together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sae.data.activations import corpus_reader, forward_rows
from sae.data.corpus import Corpus
from sae.data.left_out import NOTHING, LeftOut
from sae.errors import DamagedFile, UserError
from sae.lm.bridge import LanguageModel
from sae.lm.fast_reader import Read
from sae.workspace.files import atomic_write, write_json

CHUNK_TOKENS = 65_536  # least number in a chunk, so that one is written in seconds
_PASS_TOKENS = 8192
_FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """A description of kept activations that decides every byte of them, up to the language model's rounding."""

    model: str
    corpus: str
    context_length: int
    hooks: tuple[str, ...]
    widths: tuple[int, ...]
    contexts: int
    tokens: int
    chunk_contexts: int
    format: int = _FORMAT

    @property
    def n_bytes(self) -> int:
        return 2 * self.tokens * sum(self.widths)

    @property
    def n_chunks(self) -> int:
        return -(-self.contexts // self.chunk_contexts)


def plan_kept(lm: LanguageModel, corpus: Corpus, hooks: Sequence[str], n_tokens: int) -> Plan:
    """Return the plan to keep at least `n_tokens` activations of each site, or all of the training split."""
    one = torch.tensor([[lm.bos_id]], device=lm.device)
    widths = tuple(x_PSD.shape[2] for x_PSD in lm.activations_at(one, list(hooks)))
    ends = np.cumsum(corpus.length[_order(corpus)].astype(np.int64))
    contexts = min(len(ends), int(np.searchsorted(ends, n_tokens)) + 1)
    return Plan(lm.info.id, corpus.id, corpus.context_length, tuple(hooks), widths, contexts, int(ends[contexts - 1]),
                max(1, CHUNK_TOKENS // corpus.context_length))


def keep(
    lm: LanguageModel, corpus: Corpus, plan: Plan, folder: Path, update: Callable[[int], None] = lambda tokens: None
) -> None:
    """Write the activations of `plan` to `folder`, except the chunks that are there already.

    `update(tokens)` receives the tokens that are done and may raise to stop.  Raises UserError (field `name`) if the
    folder holds the activations of another plan.
    """
    there = _read_plan(folder / "plan.json")
    if there is not None and there != plan:
        raise UserError(f"name: {folder.name} holds activations of other sites or of another text; choose another name",
                        "name")
    write_json(folder / "plan.json", asdict(plan))
    contexts, done = _order(corpus)[: plan.contexts], 0
    read, _ = corpus_reader(lm, corpus, plan.hooks, autocast=True)
    for chunk in range(plan.n_chunks):
        rows = contexts[chunk * plan.chunk_contexts : (chunk + 1) * plan.chunk_contexts]
        n_rows = int(corpus.length[rows].astype(np.int64).sum())
        if not _is_whole(folder, plan, chunk, n_rows):
            _write_chunk(lm, read, corpus, plan, folder, chunk, rows,
                         lambda n, before=done: update(before + n))  # type: ignore[misc]
        done += n_rows
        update(done)
    write_json(folder / "meta.json", asdict(plan))


def _write_chunk(
    lm: LanguageModel, read: Read, corpus: Corpus, plan: Plan, folder: Path, chunk: int, contexts: np.ndarray,
    update: Callable[[int], None],
) -> None:
    parts: list[list[Tensor]] = [[] for _ in plan.hooks]
    done = 0
    for rows_NW in forward_rows(lm, corpus, contexts, plan.hooks, include_bos=True, read=read,
                                max_tokens=_PASS_TOKENS):
        for part, site_ND in zip(parts, torch.split(rows_NW, list(plan.widths), dim=1), strict=True):
            part.append(site_ND.to(torch.bfloat16).cpu())
        done += len(rows_NW)
        update(done)
    sums = []
    for site, part in enumerate(parts):
        content = torch.cat(part).contiguous().view(torch.int16).numpy().astype("<i2", copy=False).tobytes()
        sums.append(hashlib.sha256(content).hexdigest())
        with atomic_write(_file(folder, chunk, site)) as temporary:
            temporary.write_bytes(content)
    write_json(folder / f"chunk-{chunk:05d}.json", {"rows": done, "sha256": sums})


class KeptActivations:
    """Kept activations, open for reading.  Each chunk's sum is checked when it is read for the first time."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        """Open the folder.  Raises UserError (field `activations`) if it is unfinished or is of another text."""
        plan = _read_plan(folder / "meta.json")
        if plan is None:
            raise UserError(f"activations: {folder.name} is not there or not finished", "activations")
        if plan.corpus != corpus.id:
            raise UserError(f"activations: {folder.name} was made from another text, or with another context_length",
                            "activations")
        self.folder, self.plan, self.corpus = folder, plan, corpus
        self.contexts = _order(corpus)[: plan.contexts]
        self._place = np.full(corpus.n_contexts, -1, dtype=np.int64)
        self._place[self.contexts] = np.arange(plan.contexts)
        length = corpus.length[self.contexts].astype(np.int64)
        self._start = np.cumsum(length) - length
        self._open: dict[tuple[int, int], Tensor] = {}

    def widths(self, hooks: Sequence[str]) -> tuple[int, ...]:
        """Return the widths of sites.  Raises UserError (field `activations`) if one of them was not kept."""
        for hook in hooks:
            if hook not in self.plan.hooks:
                raise UserError(f"activations: {self.folder.name} has no {hook}; it has {', '.join(self.plan.hooks)}",
                                "activations")
        return tuple(self.plan.widths[self.plan.hooks.index(hook)] for hook in hooks)

    def rows(
        self, contexts: np.ndarray, hooks: Sequence[str], *, include_bos: bool, left_out: LeftOut = NOTHING,
        max_tokens: int = _PASS_TOKENS,
    ) -> Iterator[Tensor]:
        """Yield the activations of contexts as `forward_rows` does with `replace`: [N, W] float32, on the CPU."""
        per_pass = max(1, max_tokens // self.plan.context_length)
        skip = 0 if include_bos else 1
        for start in range(0, len(contexts), per_pass):
            some = contexts[start : start + per_pass]
            sites = [torch.cat([self._context(int(context), hook)[skip:] for context in some]).float()
                     for hook in hooks]
            rows_NW = sites[0] if len(sites) == 1 else torch.cat(sites, dim=1)
            if left_out:
                ids = [self.corpus.tokens[context, skip : int(self.corpus.length[context])] for context in some]
                token_N = torch.from_numpy(np.concatenate(ids).astype(np.int64))
                rows_NW = left_out.replaced(rows_NW, left_out.mask(sites[0], token_N))
            yield rows_NW

    def _context(self, context: int, hook: str) -> Tensor:
        place = int(self._place[context])
        chunk = place // self.plan.chunk_contexts
        first = int(self._start[place] - self._start[chunk * self.plan.chunk_contexts])
        return self._site(chunk, self.plan.hooks.index(hook))[first : first + int(self.corpus.length[context])]

    def _site(self, chunk: int, site: int) -> Tensor:
        """Return a site of a chunk, [rows, width] bfloat16, mapped from its file.  Raises DamagedFile."""
        if (chunk, site) not in self._open:
            path, note = _file(self.folder, chunk, site), self.folder / f"chunk-{chunk:05d}.json"
            try:
                wanted = json.loads(note.read_text(encoding="utf-8"))["sha256"][site]
                with open(path, "rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except (OSError, ValueError, KeyError, IndexError) as error:
                found, wanted = f"unreadable: {error}", ""
            if found != wanted:
                raise DamagedFile(
                    f"activations: {path.name} in {self.folder} is damaged; delete it, and keep the activations again "
                    "under the same name, which makes the missing chunk alone", path, "activations")
            mapped = np.memmap(path, dtype="<i2", mode="c").reshape(-1, self.plan.widths[site])
            self._open[chunk, site] = torch.from_numpy(mapped).view(torch.bfloat16)
        return self._open[chunk, site]


def _order(corpus: Corpus) -> np.ndarray:
    return corpus.contexts("train", 0)


def _file(folder: Path, chunk: int, site: int) -> Path:
    return folder / f"chunk-{chunk:05d}-{site}.bin"


def _is_whole(folder: Path, plan: Plan, chunk: int, n_rows: int) -> bool:
    """Return whether a chunk is there with all of its files, by their sizes."""
    sizes = [_file(folder, chunk, site) for site in range(len(plan.hooks))]
    return (folder / f"chunk-{chunk:05d}.json").exists() and all(
        path.exists() and path.stat().st_size == 2 * n_rows * width
        for path, width in zip(sizes, plan.widths, strict=True))


def _read_plan(path: Path) -> Plan | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return Plan(**{**value, "hooks": tuple(value["hooks"]), "widths": tuple(value["widths"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
