"""The codes and reconstructions of given activations by the real SAELens.

It runs in a Python with sae-lens (`benchmarks/peers/saelens/bin/python`) and without saescope:

    python saelens_codes.py <folder>...

In each folder the program reads `x.npy` [B, d_in], loads the SAE with `SAE.load_from_disk`, and writes `codes.npy`
[B, L] and `out.npy` [B, d_out].  It prints the version of SAELens.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import sae_lens
import torch


def main() -> None:
    for folder in map(Path, sys.argv[1:]):
        x = torch.from_numpy(np.load(folder / "x.npy"))
        sae = sae_lens.SAE.load_from_disk(folder)
        if sae.cfg.reshape_activations == "hook_z":
            x = x.reshape(len(x), -1, 8)
        with torch.no_grad():
            codes = sae.encode(x)
            # `forward` is encode and decode, plus a transcoder's skip connection.
            out = sae(x)
        np.save(folder / "codes.npy", codes.numpy())
        np.save(folder / "out.npy", out.reshape(len(x), -1).numpy())
    print(sae_lens.__version__)


if __name__ == "__main__":
    main()
