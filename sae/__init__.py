"""The science of saescope: train, index, read and steer with sparse autoencoders.

Knows nothing of the web.  Importing this package imports no torch; the modules
that need torch say so by importing it themselves.
"""

import os

# Read by OpenMP when torch loads.  Idle threads that spin take the cores from whatever else works:
# with a training run, a model worker and the pages on two cores, a step took 8 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
