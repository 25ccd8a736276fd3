"""The rule for leaving tokens out, from the settings and from the median norm of a text's activations."""

from __future__ import annotations

import torch

from sae.data.activations import forward_rows
from sae.data.corpus import Corpus
from sae.data.left_out import LeftOut
from sae.errors import UserError
from sae.lm.bridge import LanguageModel

_SAMPLE_TOKENS = 16_384  # of which the median norm is taken
_PASS_TOKENS = 4096


def find_left_out(lm: LanguageModel, corpus: Corpus, hook: str, multiple: float, tokens: str) -> LeftOut:
    """Return the rule for a site of a model on a text, from the settings `skip_norm` and `skip_tokens`.

    The median norm is over the first tokens of the text, without BOS.  Raises UserError (field `skip_tokens`) for an
    id that the model does not have.
    """
    ids = tuple(sorted({int(word) for word in tokens.replace(",", " ").split()}))
    if ids and ids[-1] >= lm.info.d_vocab:
        raise UserError(f"skip_tokens: {ids[-1]} is no token of {lm.info.name}, which has 0 to {lm.info.d_vocab - 1}",
                        "skip_tokens")
    if not multiple:
        return LeftOut(tokens=ids)
    return LeftOut(multiple * _median_norm(lm, corpus, hook), ids, multiple)


def _median_norm(lm: LanguageModel, corpus: Corpus, hook: str) -> float:
    contexts = corpus.contexts("all", seed=0)[: max(1, -(-_SAMPLE_TOKENS // corpus.context_length))]
    norms = [rows_NW.norm(dim=1) for rows_NW in forward_rows(
        lm, corpus, contexts, [hook], include_bos=False, max_tokens=_PASS_TOKENS)]
    return float(torch.cat(norms).median())
