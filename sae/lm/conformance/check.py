"""The conformance check: what this program believes of a model, compared with the plain Hugging Face model.

Shapes: T tokens of the text, w width of a site, D width of the residual stream, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.conformance.derivatives import agrees
from sae.lm.conformance.report import Report
from sae.lm.conformance.truth import Block, Truth
from sae.lm.dataflow import compared_in, same
from sae.lm.reach import SHORT, reading_length, sample_text, windows
from sae.lm.sites import KINDS
from sae.lm.slow_row_model import SlowRowModel, open_row_model

_LISTED = ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out",
           "hook_resid_post")  # sites with logit lists
_TOLERANCE = 1e-3  # of logits, in units of their rms


def check(lm: LanguageModel) -> Report:
    """Compare a loaded model with the plain one.  The sites that do not hold are refused from then on.

    A model that is refused as a whole has its reason in `Report.error`.
    """
    report = Report(lm.info.name, type(lm.bridge.original_model).__name__)
    try:
        with compared_in(lm.dtype):
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
        alike = {name: self._sites(names.index(name), blocks[names.index(name)]) for name in dict.fromkeys(names)}
        for layer, name in enumerate(names):
            self.report.refused |= {f"blocks.{layer}.{kind}": reason for kind, reason in alike[name].items()}
        for kind in KINDS:
            reasons = [alike[name][kind] for name in names if kind in alike[name]]
            where = "" if len(reasons) == len(blocks) else f"in {len(reasons)} of {len(blocks)} blocks: "
            self.report.add(kind, "refused" if reasons else "holds", where + reasons[0] if reasons else "")
        if len(self.report.refused) == len(KINDS) * len(blocks):
            raise UserError(f"model: {lm.info.name} has no site that can be read and edited: "
                            f"{next(iter(self.report.refused.values()))}", "model")

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
        for kind in KINDS:
            hook = f"blocks.{layer}.{kind}"
            try:
                found[kind] = self.lm.activations_at(self.tokens_1T, [hook])[0][0]
            except UserError:
                reasons[kind] = "this block has none"
        block = self.truth.block(module, self.tokens_1T)
        reasons |= block.recognise(found)
        for kind in KINDS:
            if kind not in reasons:
                reason = self._edits(layer, kind, block, found[kind].shape[1]) or self._list(layer, kind, block)
                if reason:
                    reasons[kind] = reason
        return reasons

    def _edits(self, layer: int, kind: str, block: Block, width: int) -> str:
        """Return why edits of a site are not what plain hooks give, or nothing."""
        hook = f"blocks.{layer}.{kind}"
        size = float(block.places[kind].value_Tw.std())
        push_w = size * torch.randn(width, generator=torch.Generator().manual_seed(2)).to(self.lm.device)

        def add(x: Tensor) -> Tensor:
            out = x.clone()
            out[:, 1:] += push_w.view(x.shape[2:])
            return out

        try:
            for name, edit in (("adding a direction", add), ("setting it to zero", torch.zeros_like)):
                expected_TV = block.edited_logits(kind, edit, self.tokens_1T)
                if not same(self.lm.logits(self.tokens_1T, {hook: edit})[0], expected_TV, _TOLERANCE):
                    return f"{name} gives other logits than in the plain model"
                if not same(self._read(hook, edit), expected_TV, _TOLERANCE):
                    return f"{name} token by token gives other logits than in the plain model"
        except UserError as error:
            return str(error).removeprefix("site: ")
        except Exception as error:  # whatever an unusual architecture raises
            return f"{name} ends in {type(error).__name__}"
        return ""

    def _read(self, hook: str, edit: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits [T, V] with an edit, the last tokens read one by one; the edit leaves the first token alone or not."""
        tokens = self.tokens_1T[0].tolist()
        n, row = len(tokens) - 1, 1
        rows = self.rows.new_rows(256 * (1 + len(tokens) // 256))
        parts = [self.rows.read(tokens[:n], {hook: edit}, rows, row, whole=True)]

        def later(x: Tensor) -> Tensor:  # no row of a step begins a text
            return edit(torch.cat([x, x], dim=1))[:, 1:]

        for i in range(n, len(tokens)):
            order = self.rows.order([row])
            out = self.rows.step(rows, order, {row: tokens[i]}, {row: i}, {hook: later})
            parts.append(out[order.index(row)][None])
        return torch.cat(parts)

    def _list(self, layer: int, kind: str, block: Block) -> str:
        """Return why the logit lists of a site are not the derivatives of the real final norm and head, or nothing."""
        if kind not in _LISTED:
            return ""
        try:
            lists = self.lm.unembedding(f"blocks.{layer}.{kind}")
        except UserError as error:
            return str(error).removeprefix("site: ")
        return "" if agrees(self.truth, self.last, block, kind, lists, self.tokens_1T) else (
            "the logits of its directions are not those of the real final norm and head")


def signature(module: nn.Module) -> str:
    """Return the classes and shapes of a block; blocks that share them are taken to be alike."""
    parts = [f"{name} {type(part).__name__}" for name, part in module.named_modules()]
    return "; ".join([*parts, *(f"{name} {tuple(tensor.shape)}" for name, tensor in module.named_parameters())])


def _list(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers)
