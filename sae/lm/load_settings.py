"""The settings of loading a language model, from the environment.  No torch.

They are in the environment, so that runs, page workers and the model worker of one server have the same ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sae.errors import UserError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of a weight, by the name of its number format
DTYPE, REMOTE_CODE = "SAESCOPE_MODEL_DTYPE", "SAESCOPE_REMOTE_CODE"
_YES, _NO = ("1", "true", "yes"), ("", "0", "false", "no")


@dataclass(frozen=True)
class LoadSettings:
    """The number format of the weights, and whether Python code in a model's folder may run."""

    dtype: str = "float32"
    remote_code: bool = False

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of one weight."""
        return BYTES[self.dtype]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> LoadSettings:
        """Read the two variables.  Raises UserError with the variable as the field."""
        environment = os.environ if environment is None else environment
        dtype = environment.get(DTYPE, "").strip() or "float32"
        if dtype not in BYTES:
            raise UserError(f"{DTYPE}: {dtype!r} is not one of {', '.join(BYTES)}", DTYPE)
        code = environment.get(REMOTE_CODE, "").strip().lower()
        if code not in (*_YES, *_NO):
            raise UserError(f"{REMOTE_CODE}: {code!r} is neither true nor false", REMOTE_CODE)
        return cls(dtype, code in _YES)
