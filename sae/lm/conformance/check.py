"""The conformance check: what this program believes of a model, compared with the plain Hugging Face model.

Shapes: T tokens of the text, w width of a site, D width of the residual stream, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.conformance.attention import Attention
from sae.lm.conformance.derivatives import agrees, taken_in
from sae.lm.conformance.report import SINGLE_HEADS, Report
from sae.lm.conformance.truth import Block, Truth
from sae.lm.dataflow import compared_in, same
from sae.lm.reach import SHORT, reading_length, sample_text, windows
from sae.lm.sites import BLOCK_KINDS, EMBED, HEADS, NO_LOGITS
from sae.lm.slow_row_model import SlowRowModel, open_row_model

_TOLERANCE = 1e-3  # of logits, in units of their rms


def check(lm: LanguageModel) -> Report:
    """Compare a loaded model with the plain one.  The sites that do not hold are refused from then on.

    A model that is refused as a whole has its reason in `Report.error`.
    """
    report = Report(lm.info.name, type(lm.bridge.original_model).__name__)
    try:
        with compared_in(lm.rounding):
            _Check(lm, report).run()
    except UserError as error:
        report.error = str(error)
    except Exception as error:  # whatever an unusual architecture raises
        report.error = (f"model: {lm.info.name} ({report.architecture}) cannot be checked: {type(error).__name__}: "
                        f"{' '.join(str(error).split())[:200]}")
    lm.refused, lm.way = dict(report.refused), report.way
    return report


@dataclass
class _Check:
    lm: LanguageModel
    report: Report

    def run(self) -> None:
        lm, tokens = self.lm, sample_text(self.lm, reading_length(self.lm))
        lm.refused, lm.way = {}, ""
        long_1T = torch.tensor([tokens], device=lm.device)
        self.tokens_1T = long_1T[:, :SHORT]
        rows_error = ""
        try:
            self.rows = open_row_model(lm)  # first, because it lays the weights out anew
        except UserError as error:
            rows_error = str(error)
        self.truth = Truth(lm)
        self._whole_model(long_1T)
        if rows_error:
            raise UserError(rows_error, "model")
        self._token_by_token()
        blocks = self.truth.blocks(self.tokens_1T)
        self.last = blocks[-1]
        names = [signature(module) for module in blocks]
        self._embedding(blocks[0])
        alike = {name: self._sites(names.index(name), blocks[names.index(name)]) for name in dict.fromkeys(names)}
        for layer, name in enumerate(names):
            self.report.refused |= {f"blocks.{layer}.{kind}": reason for kind, reason in alike[name].items()}
        for kind in BLOCK_KINDS:
            self._add(kind, [alike[name][kind] for name in names if kind in alike[name]], len(blocks))
        lacking = [next((f"{kind}: {alike[name][f'{kind}:h']}" for kind in HEADS if f"{kind}:h" in alike[name]), "")
                   for name in names]
        self._add(SINGLE_HEADS, [reason for reason in lacking if reason], len(blocks))
        if not any(f"blocks.{layer}.{kind}" not in self.report.refused
                   for layer in range(len(blocks)) for kind in BLOCK_KINDS):
            raise UserError(f"model: {lm.info.name} has no site that can be read and edited: "
                            f"{next(iter(self.report.refused.values()))}", "model")

    def _add(self, subject: str, reasons: list[str], n_blocks: int) -> None:
        where = "" if len(reasons) == n_blocks else f"in {len(reasons)} of {n_blocks} blocks: "
        self.report.add(subject, "refused" if reasons else "holds", where + reasons[0] if reasons else "")

    def _embedding(self, first: nn.Module) -> None:
        """Compare the output of the token embedding, its edits and its logit lists."""
        try:
            value_TD = self.lm.activations_at(self.tokens_1T, [EMBED])[0][0]
            block = self.truth.embedding(value_TD, self.tokens_1T)
            reason = ("the plain model's embedding gives out other numbers" if block is None else
                      self._edits(EMBED, EMBED, block, value_TD.shape[1]))
        except UserError:
            block, reason = None, "the model has none"
        if block is not None and not reason:
            block.factors[EMBED] = taken_in(self.truth, first, block, self.tokens_1T)
            reason = self._list(EMBED, EMBED, block)
        if reason:
            self.report.refused[EMBED] = reason
        self.report.add(EMBED, "refused" if reason else "holds", reason)

    def _whole_model(self, long_1T: Tensor) -> None:
        lm, T = self.lm, long_1T.shape[1]
        expected_TV = self.truth.logits(long_1T)
        if not torch.isfinite(expected_TV).all():
            raise UserError(f"model: {lm.info.name} gives logits that are no numbers", "model")
        if not same(lm.logits(long_1T)[0], expected_TV, _TOLERANCE):
            raise UserError(f"model: {lm.info.name} has other logits in transformer_lens than in transformers", "model")
        other_1T = self.tokens_1T.clone()
        half = other_1T.shape[1] // 2
        other_1T[0, half:] = (other_1T[0, half:] + 1) % lm.info.d_vocab
        if not same(self.truth.logits(other_1T)[:half], self.truth.logits(self.tokens_1T)[:half], _TOLERANCE):
            raise UserError(f"model: {lm.info.name} is no causal language model: what it says of a token depends on "
                            "later ones", "model")
        reached = [width for width in windows(lm) if width < T]
        missed = [width for width in windows(lm) if width >= T]
        detail = f"{T} tokens" + (f", past windows of {_list(reached)}" if reached else "")
        self.report.add("logits", "holds", detail + (f"; windows of {_list(missed)} not reached" if missed else ""))

    def _token_by_token(self) -> None:
        if not isinstance(self.rows, SlowRowModel):
            self.report.way = "fast"
            self.report.add("token by token", "holds")
        elif self.rows.cached:
            self.report.way = "cached"
            self.report.add("token by token", "slow", "with the model's own attention and cache, each text by itself")
        else:
            self.report.way = "whole"
            self.report.add("token by token", "slow", "each step reads the whole text again")

    def _sites(self, layer: int, module: nn.Module) -> dict[str, str]:
        """Return a reason for every kind of site of a block that does not hold."""
        found, reasons = {}, {}
        for kind in BLOCK_KINDS:
            hook = f"blocks.{layer}.{kind}"
            try:
                found[kind] = self.lm.activations_at(self.tokens_1T, [hook])[0][0]
            except UserError:
                reasons[kind] = "this block has none"
        block = self.truth.block(module, self.tokens_1T)
        reasons |= block.recognise(found)
        sites, heads = Attention(block, self.lm.bridge.cfg).recognise(found, self.tokens_1T)
        reasons |= sites
        for kind in BLOCK_KINDS:
            if kind not in reasons:
                hook = f"blocks.{layer}.{kind}"
                reason = self._edits(hook, kind, block, found[kind].shape[1]) or self._list(hook, kind, block)
                if reason:
                    reasons[kind] = reason
        return reasons | {f"{kind}:h": reasons.get(kind) or heads[kind] for kind in HEADS
                          if kind in reasons or kind in heads}

    def _edits(self, hook: str, kind: str, block: Block, width: int) -> str:
        """Return why edits of a site are not what plain hooks give, or nothing.

        From the last token backwards, one token gets a direction, one is set to zero, one is left alone, and so on.
        """
        size = float(block.places[kind].value_Tw.std())
        push_w = size * torch.randn(width, generator=torch.Generator().manual_seed(2)).to(self.lm.device)

        def mixed(x: Tensor, first: int = 0) -> Tensor:
            out = x.clone()
            for i in range(x.shape[1]):
                part = (self.tokens_1T.numel() - 1 - first - i) % 3
                if part < 2:
                    out[:, i] = out[:, i] + push_w.view(x.shape[2:]) if part == 0 else 0
            return out

        try:
            expected_TV = block.edited_logits(kind, mixed, self.tokens_1T)
            if not same(self.lm.logits(self.tokens_1T, {hook: mixed})[0], expected_TV, _TOLERANCE):
                return "an edit gives other logits than in the plain model"
            if not same(self._read(hook, mixed), expected_TV, _TOLERANCE):
                return "an edit token by token gives other logits than in the plain model"
        except UserError as error:
            return str(error).removeprefix("site: ")
        except Exception as error:  # whatever an unusual architecture raises
            return f"an edit ends in {type(error).__name__}"
        return ""

    def _read(self, hook: str, edit: Callable[..., Tensor]) -> Tensor:
        """Logits [T, V] with an edit of the activations from a position on, the last tokens read one by one."""
        tokens = self.tokens_1T[0].tolist()
        n, row = len(tokens) - 1, 1
        rows = self.rows.new_rows(256 * (1 + len(tokens) // 256))
        parts = [self.rows.read(tokens[:n], {hook: edit}, rows, row, whole=True)]

        for i in range(n, len(tokens)):
            order = self.rows.order([row])
            out = self.rows.step(rows, order, {row: tokens[i]}, {row: i},
                                 {hook: partial(edit, first=i)})
            parts.append(out[order.index(row)][None])
        return torch.cat(parts)

    @cached_property
    def _head_DV(self) -> Tensor:
        """The map from the last block's residual stream to logits, which most sites share."""
        return self.lm.unembedding()

    def _list(self, hook: str, kind: str, block: Block) -> str:
        """Return why the logit lists of a site are not the derivatives of the real final norm and head, or nothing."""
        if kind in NO_LOGITS:
            return ""
        try:
            lists = self.lm.unembedding(hook, self._head_DV)
        except UserError as error:
            if kind == EMBED:  # its directions may have no logits of their own
                return ""
            return str(error).removeprefix("site: ")
        return "" if agrees(self.truth, self.last, block, kind, lists, self.tokens_1T) else (
            "the logits of its directions are not those of the real final norm and head")


def signature(module: nn.Module) -> str:
    """Return the classes and shapes of a block; blocks that share them are taken to be alike."""
    parts = [f"{name} {type(part).__name__}" for name, part in module.named_modules()]
    return "; ".join([*parts, *(f"{name} {tuple(tensor.shape)}" for name, tensor in module.named_parameters())])


def _list(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers)
