"""Forward passes on the same tokens that share the blocks before their first edit.

Shapes: P prompts, S positions, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sae.lm.bridge import Edits, LanguageModel

_POST, _PRE = "hook_resid_post", "hook_resid_pre"


class SharedStart:
    """The blocks of a model before the first one in which anything is edited at `hooks`.

    An edit of a block's output is done at the input of the next block, so that one block more is shared.
    """

    def __init__(self, lm: LanguageModel, hooks: Sequence[str]) -> None:
        self._lm = lm
        blocks = list(getattr(getattr(lm, "bridge", None), "blocks", ()))
        self._names = {hook: _next_input(hook, len(blocks)) for hook in hooks}
        depths = [_block(name) for name in self._names.values()]
        self._blocks: list[Any] = blocks[: min(depths, default=0)]

    def works(self, tokens_PS: Tensor, edits: Edits) -> bool:
        """Return whether there is a shared block and the edited logits are the same to the last bit with it."""
        if not self._blocks:
            return False
        expected = self._lm.logits(tokens_PS, edits)
        try:
            _, output = self.clean(tokens_PS)
            return torch.equal(self.edited(tokens_PS, edits, output), expected)
        except Exception:  # an unusual architecture may raise anything
            return False

    def clean(self, tokens_PS: Tensor) -> tuple[Tensor, Any]:
        """Return the logits [P, S, V] without any edit, and the output of the shared blocks."""
        outputs: list[Any] = []
        handle = self._blocks[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            logits_PSV = self._lm.logits(tokens_PS)
        finally:
            handle.remove()
        (output,) = outputs
        return logits_PSV, output

    def edited(self, tokens_PS: Tensor, edits: Edits, output: Any) -> Tensor:
        """Return the logits [P, S, V] of the tokens that `clean` read, with edits at the hook points."""
        with self._replaced(output):
            return self._lm.logits(tokens_PS, {self._names[hook]: edit for hook, edit in edits.items()})

    @contextmanager
    def _replaced(self, output: Any) -> Iterator[None]:
        """Let the shared blocks return `output` and compute nothing for the time of the block."""
        for block in self._blocks:  # not by setattr, which a bridge passes on to the model
            block.__dict__["forward"] = lambda *_, **__: output
        try:
            yield
        finally:
            for block in self._blocks:
                del block.__dict__["forward"]


def _next_input(hook: str, n_blocks: int) -> str:
    """Return the name of the same place as the input of the next block, if there is one."""
    after = _block(hook) + 1
    return f"blocks.{after}.{_PRE}" if hook.endswith(f".{_POST}") and after < n_blocks else hook


def _block(hook: str) -> int:
    """Return the number of the block that a hook point is in; 0 for one before all blocks."""
    parts = hook.split(".")
    return int(parts[1]) if parts[0] == "blocks" else 0
