"""What the real SAELens makes of SAE folders: codes and reconstructions of given activations.

Run by a Python that has sae-lens in it (`benchmarks/peers/saelens/bin/python`), which has no saescope:

    python saelens_codes.py <folder>...

In each folder `x.npy` [B, d_in] is read, the SAE is loaded by `SAE.load_from_disk`, and `codes.npy`
[B, L] and `out.npy` [B, d_out] are written beside it.  Prints the version of SAELens.
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
            # `forward` is encode and decode, and a transcoder's skip connection
            out = sae(x)
        np.save(folder / "codes.npy", codes.numpy())
        np.save(folder / "out.npy", out.reshape(len(x), -1).numpy())
    print(sae_lens.__version__)


if __name__ == "__main__":
    main()
