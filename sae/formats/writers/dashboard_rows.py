"""The rows that every writer of dashboards reads from a build: latents with their contexts, in order.  No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from sae.formats.histogram_bins import Bins, nine
from sae.formats.token_text import piece_text
from sae.store.build import Build
from sae.store.records import Context, Latent
from sae.store.schema import TOP_BAND

BLOCK = 128  # latents read at a time


class Exporter:
    """A build to export: rows in order, and tokens as text."""

    def __init__(self, build: Build, config: Mapping[str, Any]) -> None:
        self.build, self.config, self.meta = build, config, build.meta

    def rows(self, latents: range) -> Iterator[tuple[Latent, list[Context]]]:
        """Yield the latents of a range with their contexts."""
        for start in range(latents.start, latents.stop, BLOCK):
            yield from self.build.records(start, min(start + BLOCK, latents.stop))

    @cached_property
    def _texts(self) -> dict[int, str]:
        return {}

    def texts(self, tokens: Sequence[int]) -> list[str]:
        """Return the tokens as text."""
        known = self._texts
        known.update({t: piece_text(self.build.vocabulary[t].piece or f"⟨{t}⟩".encode())
                      for t in tokens if t not in known})
        return [known[t] for t in tokens]

    def activation_bins(self, latent: Latent) -> Bins | None:
        """Return the latent's histogram of activations, or None if it has none."""
        if latent.hist is None:
            return None
        edges = latent.hist_edges or [float(self.meta["hist_low"]), *map(float, self.meta["hist_edges"])]
        while len(edges) <= len(latent.hist):  # the last bin is open
            edges = [*edges, edges[-1] * edges[-1] / edges[-2]]
        return Bins.between(edges, latent.hist)

    def logit_bins(self, latent: Latent) -> Bins | None:
        """Return the latent's histogram of logit effects, or None if it has none; the outer bins are open."""
        edges = latent.logit_edges or self.meta.get("logit_edges")
        return Bins.between(list(map(float, edges)), latent.logit_hist) if edges and latent.logit_hist else None

    def logit_lists(self, latent: Latent) -> dict[str, list[Any]]:
        """Return the tokens whose logits the latent raises and lowers most, under the keys of both formats."""
        sides = {"neg": latent.logit_neg, "pos": latent.logit_pos}
        return {f"{side}_str": self.texts([t for t, _ in pairs]) for side, pairs in sides.items()} | {
            f"{side}_values": [nine(v) for _, v in pairs] for side, pairs in sides.items()}

    def band_range(self, context: Context, contexts: Sequence[Context]) -> tuple[float, float, float]:
        """Return (binMin, binMax, binContains) of a context's group.

        The top contexts have (−1, the largest activation, −1).  The contexts of a band have the range of their
        activations, and the share of the firings that the band holds.
        """
        if context.band == TOP_BAND:
            return -1.0, max(c.act for c in contexts if c.band == TOP_BAND), -1.0
        acts = [c.act for c in contexts if c.band == context.band]
        band = next((b for b in self.meta["bands"] if b["band"] == context.band), None)
        share = (band["q_high"] - band["q_low"]) if band and band.get("q_high") is not None else -1.0
        return min(acts), max(acts), round(share, 4)
