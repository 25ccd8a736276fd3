"""The settings of loading a language model, from the environment.  No torch.

They are in the environment, so that runs, page workers and the model worker of one server have the same ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sae.errors import UserError

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}  # of a weight, by the name of its number format
DTYPE, REMOTE_CODE = "SAESCOPE_MODEL_DTYPE", "SAESCOPE_REMOTE_CODE"
BITS, DEVICE_MAP = "SAESCOPE_MODEL_BITS", "SAESCOPE_DEVICE_MAP"
MAX_MEMORY, OFFLOAD = "SAESCOPE_MAX_MEMORY", "SAESCOPE_OFFLOAD_FOLDER"
_YES, _NO = ("1", "true", "yes"), ("", "0", "false", "no")
_MAPS = ("", "auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class LoadSettings:
    """How a language model is loaded.

    `dtype` is the number format of its weights, and `bits`, if it is not 0, that of the weights of linear layers.
    `device_map` spreads the layers over several devices; `max_memory` is the most that each may hold, and what fits
    nowhere goes to the folder `offload`.
    """

    dtype: str = "float32"
    remote_code: bool = False
    bits: int = 0
    device_map: str = ""
    max_memory: tuple[tuple[int | str, str], ...] = ()
    offload: str = ""

    @property
    def weight_bytes(self) -> float:
        """Return the bytes of one weight of a linear layer."""
        return self.bits / 8 if self.bits else BYTES[self.dtype]

    @property
    def other_bytes(self) -> float:
        """Return the bytes of one number of the embeddings, which keep the number format."""
        return BYTES[self.dtype]

    @property
    def placed(self) -> bool:
        """Return whether the weights are not plain tensors on one device, so that they cannot be shared or moved."""
        return bool(self.bits or self.device_map)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> LoadSettings:
        """Read the variables.  Raises UserError with the variable as the field."""
        environment = os.environ if environment is None else environment
        given = {name: environment.get(name, "").strip()
                 for name in (DTYPE, REMOTE_CODE, BITS, DEVICE_MAP, MAX_MEMORY, OFFLOAD)}
        dtype, code = given[DTYPE] or "float32", given[REMOTE_CODE].lower()
        for name, value, known in ((DTYPE, dtype, BYTES), (BITS, given[BITS], ("", "4", "8")),
                                   (DEVICE_MAP, given[DEVICE_MAP], _MAPS)):
            if value not in known:
                raise UserError(f"{name}: {value!r} is not one of {', '.join(filter(None, known))}", name)
        if code not in (*_YES, *_NO):
            raise UserError(f"{REMOTE_CODE}: {code!r} is neither true nor false", REMOTE_CODE)
        for name in (MAX_MEMORY, OFFLOAD):
            if given[name] and not given[DEVICE_MAP]:
                raise UserError(f"{name}: is for a model on several devices; set {DEVICE_MAP} as well", name)
        return cls(dtype, code in _YES, int(given[BITS] or 0), given[DEVICE_MAP], _memory(given[MAX_MEMORY]),
                   given[OFFLOAD])


def _memory(text: str) -> tuple[tuple[int | str, str], ...]:
    """Return the limits of devices: "0=20GiB,cpu=60GiB" says GPU 0 and the main memory."""
    out: list[tuple[int | str, str]] = []
    for word in filter(None, map(str.strip, text.split(","))):
        match = re.fullmatch(r"(cpu|\d+)=(\d+(?:\.\d+)?[KMG]i?B)", word)
        if match is None:
            raise UserError(f"{MAX_MEMORY}: {word!r} is not a device and its memory, such as 0=20GiB or cpu=60GiB",
                            MAX_MEMORY)
        out.append((match[1] if match[1] == "cpu" else int(match[1]), match[2]))
    return tuple(out)
