"""The science of saescope: train, index, read and steer with sparse autoencoders.

Knows nothing of the web.  Importing this package imports no torch; the modules
that need torch say so by importing it themselves.
"""

__version__ = "0.1.0"
