"""The science of saescope: train, index, read and steer with sparse autoencoders.

This package knows nothing of the web.  Importing it does not import torch; the modules that need torch import it
themselves.
"""

import os

# OpenMP reads this when torch loads.  Idle threads that spin take the cores from other processes:
# with a training run, a model worker and the pages on two cores, a step took 8 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
