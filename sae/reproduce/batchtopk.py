"""The grid, the claims and the figures of "BatchTopK Sparse Autoencoders" (Bussmann, Leask & Nanda 2024)."""

from __future__ import annotations

from collections.abc import Sequence

from sae.reproduce.claims import Claim, Verdict, compared, untested
from sae.reproduce.figures import Figure, Line
from sae.reproduce.paper import Paper
from sae.reproduce.results import Results, Row, Spread
from sae.reproduce.setup import Cell, Setup

_NAMES = {"topk": "TopK", "batch_topk": "BatchTopK", "jumprelu": "JumpReLU"}
_METRICS = (("fvu", "NMSE", "a lower NMSE", "NMSE (fraction of variance unexplained)"),
            ("delta_ce", "CE degradation", "less CE degradation", "CE degradation (nats)"))
_L0_TOLERANCE = 0.05  # the largest share by which L0 may differ from k where it counts as specified


def cells(setup: Setup) -> list[Cell]:
    """Return the paper's grid: TopK and BatchTopK at every size and every k, JumpReLU at every k (figure 1)."""
    pairs = dict.fromkeys([*((size, setup.k) for size in setup.sizes), *((setup.size, k) for k in setup.ks)])
    return [
        *(Cell(architecture=architecture, n_latents=size, k=k)
          for size, k in pairs for architecture in ("topk", "batch_topk")),
        *(Cell(architecture="jumprelu", n_latents=setup.size, k=k) for k in setup.ks)]


def claims(results: Results, setup: Setup) -> list[Claim]:
    """Return the paper's claims with what was found."""
    out = []
    for key, name, better, _ in _METRICS:
        out.append(compared(
            f"At a fixed L0 of 32, BatchTopK has {better} than TopK across dictionary sizes.",
            "section 4, figure 1 left", f"{name} of BatchTopK below TopK's",
            [results.gain("batch_topk", "topk", key, f"L = {size:,}", n_latents=size, k=setup.k)
             for size in setup.sizes]))
        out.append(compared(
            f"At a fixed dictionary size, BatchTopK has {better} than TopK at every k.", "section 4, figure 1 right",
            f"{name} of BatchTopK below TopK's",
            [results.gain("batch_topk", "topk", key, f"k = {k}", n_latents=setup.size, k=k) for k in setup.ks]))
        out.append(compared(
            f"BatchTopK has {better} than JumpReLU at all levels of sparsity (on GPT-2 Small).",
            "section 4, figure 1 right", f"{name} of BatchTopK, interpolated to JumpReLU's L0, below JumpReLU's",
            [results.gain_at_equal_l0("batch_topk", "jumprelu", key, f"k = {k}", setup.size, k=k)
             for k in setup.ks]))
    return [*out, _l0_is_specified(results, setup), _l0_varies(results, setup), _bos_is_low(results, setup), untested(
        "On Gemma 2 2B, BatchTopK beats JumpReLU in CE only at k = 16.", "section 4, figure 2",
        "This is a statement about another language model.")]


def _l0_is_specified(results: Results, setup: Setup) -> Claim:
    """Judge whether the mean L0 at the threshold of equation 7 is the k of training."""
    says = "The average number of latents can be specified directly, also at inference with one threshold θ."
    found, off = [], []
    for k in setup.ks:
        trained, calibrated = (results.spread("batch_topk", read, n_latents=setup.size, k=k)
                               for read in (lambda row: row["threshold"]["l0_trained"], "l0"))
        tuned = results.spread("jumprelu", "l0", n_latents=setup.size, k=k)
        if trained and calibrated:
            off.append(abs(trained.mean / k - 1))
            found.append(f"k = {k}: {trained.text('.1f')} at the θ of equation 7, {calibrated.text('.1f')} at a θ "
                         "calibrated on other held-out text"
                         + (f"; JumpReLU, aimed at the same k: {tuned.text('.1f')}" if tuned else ""))
    if not off:
        return untested(says, "sections 1 and 3", "There is nothing to compare.")
    verdict: Verdict = "reproduced" if max(off) <= _L0_TOLERANCE else "not reproduced"
    return Claim(says, "sections 1 and 3", f"Mean L0 on held-out text. {'. '.join(found)}. At the θ of equation 7 it "
                 f"is at most {max(off):.1%} off, where {_L0_TOLERANCE:.0%} are allowed here.", verdict)


def _l0_varies(results: Results, setup: Setup) -> Claim:
    says = ("BatchTopK uses a wide range of active latents: a single one on some tokens and more than 80 on others "
            "(k = 32).")
    rows = list(results.of("batch_topk", n_latents=setup.size, k=setup.k).values())
    if not rows:
        return untested(says, "appendix A.2, figure 3", "There is nothing to compare.")
    ends = [histogram_range(row["l0_histogram"]) for row in rows]
    low, high = max(a for a, _ in ends), min(b for _, b in ends)
    sd = Spread.of(row["l0_std"] for row in rows)
    # The paper's upper end is 2.5 k; its lower end is a single latent.
    wide = low <= setup.k / 2 and high >= 2.5 * setup.k
    return Claim(says, "appendix A.2, figure 3", f"Without BOS, every seed has tokens with {low} or fewer and tokens "
                 f"with {high} or more active latents at k = {setup.k}; the standard deviation is {sd.text('.1f')}. "
                 f"It counts as reproduced from {setup.k // 2} or fewer to {round(2.5 * setup.k)} or more.",
                 "reproduced" if wide else "not reproduced")


def histogram_range(counts: Sequence[int]) -> tuple[int, int]:
    """Return the smallest and the largest L0 that occur."""
    seen = [l0 for l0, n in enumerate(counts) if n]
    return seen[0], seen[-1]


def _bos_is_low(results: Results, setup: Setup) -> Claim:
    says = "BOS tokens form a peak of few active latents, because their activations contain little information."
    share = results.spread("batch_topk", lambda row: row["bos_l0"] / row["l0"], n_latents=setup.size, k=setup.k)
    bos = results.spread("batch_topk", "bos_l0", n_latents=setup.size, k=setup.k)
    topk = results.spread("topk", "bos_l0", n_latents=setup.size, k=setup.k)
    if share is None or bos is None or share.high is None:
        return untested(says, "appendix A.2, figure 3", "There are no seeds to compare.")
    other = f"; TopK's is {topk.text('.1f')}" if topk else ""
    return Claim(says, "appendix A.2, figure 3", f"L0 of BOS is {bos.text('.1f')} at k = {setup.k}, which is "
                 f"{share.text('.2f')} of the mean L0{other}. It counts as reproduced if the interval is below 1/2.",
                 "reproduced" if share.high < 0.5 else "not reproduced")


def figures(results: Results, setup: Setup) -> list[Figure]:
    """Return the paper's figures 1 and 3 with the data found here."""
    out = []
    for key, name, _, label in _METRICS:
        out.append(Figure(
            f"Figure 1, left: {name} against dictionary size", f"k = {setup.k}. Points are means over seeds with 95% "
            "intervals.", "dictionary size", label, tuple(
                Line(_NAMES[kind], tuple((size, s) for size in setup.sizes if (s := results.spread(
                    kind, key, n_latents=size, k=setup.k)))) for kind in ("topk", "batch_topk")), log_x=True))
    for key, name, _, label in _METRICS:
        out.append(Figure(
            f"Figure 1, right: {name} against L0", f"L = {setup.size:,}. L0 is measured on the same held-out text.",
            "L0 on held-out text", label, tuple(
                Line(_NAMES[kind], tuple(_points(results, kind, key, setup))) for kind in _NAMES), log_x=True))
    return out + _histogram(results, setup)


def _points(results: Results, kind: str, key: str, setup: Setup) -> list[tuple[float, Spread]]:
    pairs = ([results.spread(kind, name, n_latents=setup.size, k=k) for name in ("l0", key)] for k in setup.ks)
    return [(l0.mean, value) for l0, value in pairs if l0 and value]


def _histogram(results: Results, setup: Setup) -> list[Figure]:
    rows: list[Row] = list(results.of("batch_topk", n_latents=setup.size, k=setup.k).values())
    if not rows:
        return []
    longest = max(len(row["l0_histogram"]) for row in rows)
    counts = [sum(row["l0_histogram"][l0] for row in rows if l0 < len(row["l0_histogram"])) for l0 in range(longest)]
    total, bos = sum(counts), Spread.of(row["bos_l0"] for row in rows)
    points = tuple((float(l0), Spread(100 * n / total, len(rows))) for l0, n in enumerate(counts))
    return [Figure(
        "Figure 3: active latents per token", f"BatchTopK, L = {setup.size:,}, k = {setup.k}; held-out tokens without "
        "BOS, all seeds together. The vertical line is the mean number of latents on BOS.",
        "active latents", "share of tokens (%)", (Line("BatchTopK", points),), bars=True,
        marks=((bos.mean, f"BOS: {bos.mean:.1f}"),))]


PAPER = Paper(
    "batchtopk", "BatchTopK Sparse Autoencoders", "Bussmann, Leask & Nanda 2024",
    "The paper trains on GPT-2 Small and Gemma 2 2B with a billion tokens of OpenWebText, Adam at a rate of 3e-4, "
    "batches of 4,096 and 3,072 to 24,576 latents, with one seed. JumpReLU's penalty aims at k here, while the paper "
    "sweeps its coefficient. ΔCE is measured on all tokens but BOS, and θ is calibrated on separate held-out text.",
    cells, claims, figures,
    quick={"sizes": (64, 128), "size": 128, "ks": (4, 8), "k": 4, "seeds": 2, "tokens": 4_096, "batch_tokens": 256,
           "eval_tokens": 1_000, "ce_tokens": 256})
