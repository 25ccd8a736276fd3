"""Facts that a file does not state are asked for in one line."""

from __future__ import annotations

import torch

from sae.formats.foreign import Foreign, MissingFacts, Weights


def test_all_missing_settings_are_named_as_options() -> None:
    weights = Weights(torch.zeros(3, 2), torch.zeros(3), torch.zeros(3, 2), torch.zeros(2), "relu")
    foreign = Foreign("a format", weights)
    error = MissingFacts({"input_scale": "the factor", "bos": "yes or no"}, foreign)
    assert str(error) == (
        "source: a format does not state everything needed; give --input-scale (the factor), --bos (yes or no)")
    assert (error.field, error.foreign) == ("input_scale", foreign)
