"""Matryoshka BatchTopK (Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka SAEs").

Selection is BatchTopK's; what differs is the loss, which asks every prefix of the dictionary to
reconstruct by itself.  A trained SAE may be cut at any of its prefixes.
"""

from __future__ import annotations

from sae.architectures.batch_topk import BatchTopK


class Matryoshka(BatchTopK):
    """BatchTopK over a dictionary whose prefixes are dictionaries, too."""
