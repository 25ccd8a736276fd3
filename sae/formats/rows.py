"""What every writer of dashboards needs from a build: its latents with their contexts, in order.  No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sae.formats.pieces import piece_text
from sae.index.schema import TOP_BAND
from sae.records import Context, Latent
from sae.store import Build

BLOCK = 128  # latents read at a time


@dataclass(frozen=True)
class Bins:
    """A histogram: the centre of each bin and how many are in it, one empty bin kept at either end."""

    centres: list[float]
    counts: list[int]


class Exporter:
    """A build on its way out: rows in order, tokens as text."""

    def __init__(self, build: Build, config: Mapping[str, Any]) -> None:
        self.build, self.config, self.meta = build, config, build.meta

    def rows(self, latents: range | None = None) -> Iterator[tuple[Latent, list[Context]]]:
        """Every latent of the build (or those in a range) with its contexts."""
        wanted = latents if latents is not None else range(self.build.n_latents)
        for start in range(wanted.start, wanted.stop, BLOCK):
            yield from self.build.records(start, min(start + BLOCK, wanted.stop))

    @cached_property
    def _texts(self) -> dict[int, str]:
        return {}

    def texts(self, tokens: Sequence[int]) -> list[str]:
        """The tokens as text."""
        known = self._texts
        missing = [t for t in tokens if t not in known]
        if missing:
            known.update((t, piece_text(entry.piece or f"⟨{t}⟩".encode()))
                         for t, entry in self.build.token_info(missing).items())
        return [known[t] for t in tokens]

    def activation_bins(self, latent: Latent) -> Bins | None:
        """Its histogram of activations.  Shared bins are log-spaced: a centre is a geometric mean."""
        if latent.hist is None:
            return None
        if latent.hist_edges is not None:
            edges, log = latent.hist_edges, self.meta.get("hist_bins") == "log"
        else:
            edges, log = [float(self.meta["hist_low"]), *map(float, self.meta["hist_edges"])], True
        while len(edges) <= len(latent.hist):  # the last bin is open
            edges = [*edges, edges[-1] * edges[-1] / edges[-2]]
        return _bins(edges, latent.hist, log)

    def logit_bins(self, latent: Latent) -> Bins | None:
        """Its histogram of logit effects; the outer bins are open."""
        edges = latent.logit_edges or self.meta.get("logit_edges")
        return _bins(list(map(float, edges)), latent.logit_hist, False) if edges and latent.logit_hist else None

    def logit_lists(self, latent: Latent) -> dict[str, list[Any]]:
        """The tokens whose logits it raises and lowers most, with their values, as both formats name them."""
        sides = {"neg": latent.logit_neg, "pos": latent.logit_pos}
        return {f"{side}_str": self.texts([t for t, _ in pairs]) for side, pairs in sides.items()} | {
            f"{side}_values": [nine(v) for _, v in pairs] for side, pairs in sides.items()}

    def band_words(self, context: Context, contexts: Sequence[Context]) -> tuple[float, float, float]:
        """(binMin, binMax, binContains) of a context's group: −1, its value, −1 for the strongest ones.

        Else the range of the values shown from its band, and the share of the firings that the band holds.
        """
        if context.band == TOP_BAND:
            return -1.0, max(c.act for c in contexts if c.band == TOP_BAND), -1.0
        acts = [c.act for c in contexts if c.band == context.band]
        band = next((b for b in self.meta["bands"] if b["band"] == context.band), None)
        share = (band["q_high"] - band["q_low"]) if band and band.get("q_high") is not None else -1.0
        return min(acts), max(acts), round(share, 4)


def _bins(edges: list[float], counts: Sequence[int], log: bool) -> Bins:
    filled = [i for i, n in enumerate(counts) if n]
    first, last = (max(filled[0] - 1, 0), min(filled[-1] + 2, len(counts))) if filled else (0, 0)
    centre = [(a * b) ** 0.5 if log else (a + b) / 2
              for a, b in zip(edges[first:last], edges[first + 1 : last + 1], strict=True)]
    return Bins(list(map(nine, centre)), list(counts[first:last]))


def nine(value: float) -> float:
    """A float32's value in the nine digits that identify it."""
    return float(f"{value:.9g}")
