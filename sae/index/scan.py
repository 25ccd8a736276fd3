"""The streaming pass: language model and SAE over the text, shard by shard, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from sae.activations import context_batches
from sae.autoencoder import Autoencoder
from sae.checkpoint import Saver
from sae.corpus import Corpus
from sae.index.classes import TokenClasses
from sae.index.crew import at_once, crew
from sae.index.shard import Firings, Frame, Misses, Shard, Tokens
from sae.kernels.codes import Codes
from sae.kernels.memory import give_back
from sae.lm import LanguageModel
from sae.reader import reader
from sae.records import CLASSES, NEAR

SHARD_TOKENS = 65_536
_CPU_PASS = 2048  # tokens of a forward pass on a CPU: what its layers make stays in the cache
T = TypeVar("T", Firings, Tokens, Misses)
Pass = tuple[Firings, Tokens, Misses]  # what a forward pass gives, BOS included in the first two


def scan(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, contexts: np.ndarray, frame: Frame, *,
    saver: Saver | None = None, read: Sequence[Pass] = (), update: Callable[[int], None] = lambda tokens: None,
) -> Shard:
    """The aggregates of `contexts`, from the last finished shard on if `saver` has one, which is given every one
    that is finished.  `read`: what is known already of the first contexts.

    `update(tokens)` is told the counted tokens read so far and may raise to stop.
    """
    state = saver.load() if saver else None
    if state and state["frame"] != asdict(frame):
        state = None
    merged = Shard.from_state(state["shard"]) if state else None
    done, n_tokens = (int(state["contexts"]), int(state["tokens"])) if state else (0, 0)
    classes = TokenClasses.of(lm.vocabulary()[0])
    per_shard = max(1, SHARD_TOKENS // corpus.context_length)
    models = crew(lm)
    while done < len(contexts):
        rows = contexts[done : done + len(models) * per_shard]

        known = _known(read, len(rows)) if done == 0 else 0
        n_parts = max(1, min(len(models), len(rows) - known))
        parts = np.split(rows, [known + (len(rows) - known) * i // n_parts for i in range(1, n_parts)])

        def part_of(
            model: LanguageModel, part: np.ndarray, tell: Callable[[int], None], known: int = known, at: int = rows[0],
        ) -> Shard:
            return scan_shard(model, sae, corpus, part, frame, classes, tell, read if known and part[0] == at else ())

        def tell(tokens: int, before: int = n_tokens) -> None:
            update(before + tokens)

        merged = _merged(merged, at_once(part_of, models, parts, tell), frame)
        give_back()  # or memory would grow with the text: what is kept falls to pieces
        done += len(rows)
        n_tokens += int((corpus.length[rows] - 1).sum())
        if saver:
            saver.save({"frame": asdict(frame), "shard": merged.state(), "contexts": done, "tokens": n_tokens})
    if merged is None:
        raise ValueError("no contexts to read")
    return merged


def _known(read: Sequence[Pass], n: int) -> int:
    """The contexts in `read`; 0 where they are not among the first n, and so of no use to a shard."""
    known = sum(int((tokens.position_B == 0).sum()) for _, tokens, _ in read)
    return known if known <= n else 0


def _merged(before: Shard | None, shards: list[Shard], frame: Frame) -> Shard:
    """All of them in one, the new and small ones first; none is to be used any more."""
    one, *others = shards
    for other in others:
        one.absorb(other, frame)
    if before is None:
        return one
    before.absorb(one, frame)
    return before


def scan_shard(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, contexts: np.ndarray, frame: Frame,
    classes: TokenClasses, update: Callable[[int], None] = lambda tokens: None, read: Sequence[Pass] = (),
) -> Shard:
    """The aggregates of some contexts, all at once.  `read` is known already, of the first of them."""
    batches: list[Pass] = []
    n_tokens = 0
    rest = contexts[_known(read, len(contexts)) :]
    for firings, tokens, misses in chain(read, encode(
            lm, sae, corpus, rest, classes, NEAR if frame.n_near else 0.0)):
        batches.append((_counted(firings), tokens, misses))
        n_tokens += int((tokens.position_B > 0).sum())
        update(n_tokens)
    firings, tokens, misses = (_joined(list(column)) for column in zip(*batches, strict=True))
    return Shard.of(frame, len(contexts), firings, tokens, misses)


def _joined(parts: list[T]) -> T:
    """The columns of all parts, one after the other."""
    return type(parts[0])(*(torch.cat(column) for column in zip(*(vars(part).values() for part in parts), strict=True)))


def _counted(firings: Firings) -> Firings:
    """All but those on BOS."""
    kept = (firings.position_N > 0).nonzero().squeeze(1)
    return Firings(*(column.index_select(0, kept) for column in vars(firings).values()))


def _in_silence(misses: Codes, firings: Codes, row_B: Tensor, position_B: Tensor) -> Codes:
    """The near misses on counted tokens of those rows of a pass in which the latent fires on none of them."""
    counted_N = position_B[firings.token_N] > 0
    fires_PL = torch.zeros(int(row_B[-1]) + 1, firings.n_latents, dtype=torch.bool, device=row_B.device)
    fires_PL[row_B[firings.token_N[counted_N]], firings.latent_N[counted_N]] = True
    fires = fires_PL[row_B[misses.token_N], misses.latent_N]
    return misses.where(~fires & (position_B[misses.token_N] > 0))


def encode(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, contexts: np.ndarray, classes: TokenClasses, near: float = 0.0,
) -> Iterator[Pass]:
    """Firings and tokens of each forward pass, BOS included, and near misses (those that lack less than `near`, none
    by default) on counted tokens, on the CPU."""
    pass_tokens = {"max_tokens": _CPU_PASS} if lm.device.type == "cpu" else {}
    read = reader(lm, list(dict.fromkeys([sae.hook, sae.out_hook])))
    for rows, tokens_PS, real_PS in context_batches(corpus, contexts, **pass_tokens):
        real_on_device = real_PS.to(lm.device)
        read_BD, *rest = (x_PSD[real_on_device] for x_PSD in read(tokens_PS.to(lm.device)))
        x_BD = rest[0] if rest else read_BD
        codes, silent = sae.codes_and_misses(read_BD, near)
        error_B = (x_BD - sae.decode(codes, read_BD)).square().sum(dim=1)
        next_PS = torch.full_like(tokens_PS, -1)
        next_PS[:, :-1] = torch.where(real_PS[:, 1:], tokens_PS[:, 1:], -1)
        row_B, position_B = real_PS.nonzero(as_tuple=True)
        bits_C = 1 << torch.arange(len(CLASSES), dtype=torch.int16)
        classes_PS = (classes.at(tokens_PS) * bits_C[:, None, None]).sum(dim=0, dtype=torch.int16)
        tokens = Tokens(
            context_B=torch.from_numpy(rows)[row_B], position_B=position_B, token_B=tokens_PS[real_PS],
            previous_B=torch.roll(tokens_PS, 1, dims=1)[real_PS], next_B=next_PS[real_PS],
            classes_B=classes_PS[real_PS], l0_B=codes.l0_B().cpu(), x_BD=x_BD.cpu(), error_B=error_B.cpu())
        silent = _in_silence(silent, codes, row_B.to(lm.device), position_B.to(lm.device))
        at_N, at_M = codes.token_N.cpu(), silent.token_N.cpu()
        misses = Misses(silent.latent_N.cpu(), silent.value_N.cpu(), tokens.context_B[at_M], position_B[at_M])
        yield Firings(codes.latent_N.cpu(), codes.value_N.cpu(), *(column_B.index_select(0, at_N) for column_B in (
            tokens.context_B, position_B, tokens.token_B, tokens.previous_B, tokens.next_B, tokens.l0_B,
            tokens.classes_B))), tokens, misses
