"""The grid and the claims of "Scaling and evaluating sparse autoencoders" (Gao et al. 2024), for small models."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sae.evaluation.scaling_law import Law, fit
from sae.reproduce import topk_figures
from sae.reproduce.claims import Claim, Verdict, compared, untested
from sae.reproduce.paper import Paper
from sae.reproduce.results import Comparison, Results, Row, Spread, interpolated
from sae.reproduce.setup import Cell, Setup

_LAMBDAS = (0.06, 0.12, 0.24)  # of ReLU and gated
_UNBIASED = 0.02  # largest |bias| of an SAE that counts as not shrunk
_SUPERIMPOSED = 5.0  # largest difference in percent of two curves that count as one
_PREDICTED = 0.05  # largest relative error of a prediction that counts as good


def cells(setup: Setup) -> list[Cell]:
    """Return TopK at every size and k (the scaling law), and the other architectures at one size (figures 5, 9, 10)."""
    size, k = setup.size, setup.k
    law = dict.fromkeys([*((n, k) for n in setup.sizes for k in setup.ks), *((size, k) for k in {*setup.ks, k})])
    return [
        *(Cell(architecture="topk", n_latents=n, k=each, detailed=(n, each) == (size, k)) for n, each in law),
        Cell(architecture="topk", n_latents=size, k=k, multi_topk=True, detailed=True),
        *(Cell(architecture="jumprelu", n_latents=size, k=each) for each in setup.ks),
        *(Cell(architecture=architecture, n_latents=size, l1_coefficient=each, detailed=architecture == "relu")
          for architecture in ("relu", "gated") for each in _LAMBDAS)]


def claims(results: Results, setup: Setup) -> list[Claim]:
    """Return the paper's claims with what was found."""
    return [*_frontier(results, setup), *_refinement(results, setup), *_progressive(results, setup),
            *_thresholds(results, setup), *_scaling(results, setup),
            untested("L(C): loss falls with training compute as a power law, down to an irreducible loss.",
                     "section 3.1.1", "The grid trains every SAE on the same number of tokens."),
            untested("Probe loss, explainability and ablation sparsity generally improve with the number of latents.",
                     "section 4", "The grid does not contain these measures; saescope evaluate has them.")]


def _frontier(results: Results, setup: Setup) -> list[Claim]:
    """Judge whether TopK is ahead of the other architectures at equal L0."""
    out = []
    for kind, name in (("relu", "ReLU"), ("gated", "gated"), ("jumprelu", "JumpReLU")):
        knobs: list[tuple[str, dict[str, float]]] = (
            [(f"k = {k}", {"k": k}) for k in setup.ks] if kind == "jumprelu"
            else [(f"λ = {value:g}", {"l1_coefficient": value}) for value in _LAMBDAS])
        for key, what in (("fvu", "MSE"), ("delta_ce", "downstream loss")):
            if key == "fvu" or kind == "relu":
                out.append(compared(
                    f"TopK has a lower {what} than {name} SAEs at equal L0.", "section 5.2, figures 2 and 5",
                    f"{what} of TopK, interpolated to the other's L0, below it",
                    [results.gain_at_equal_l0("topk", kind, key, label, setup.size, **knob) for label, knob in knobs]))
    return out


def _over_seeds(rows: dict[int, Row], read: Callable[[Row], float], setting: str) -> Comparison | None:
    """Return a figure over seeds as a comparison with 0."""
    return Comparison(setting, Spread.of(read(row) for row in rows.values())) if rows else None


def _refinement(results: Results, setup: Setup) -> list[Claim]:
    where, size = "section 5.1, figure 9", setup.size
    relu = [(f"λ = {value:g}", results.of("relu", n_latents=size, l1_coefficient=value)) for value in _LAMBDAS]
    topk = results.of("topk", n_latents=size, k=setup.k)
    out = [compared(
        "Refined activations of ReLU SAEs are larger: the L1 penalty shrinks activations.", where,
        "Σ(f* − f)/Σf",
        [_over_seeds(rows, lambda row: 100 * row["refinement"]["bias"], label) for label, rows in relu])]
    says = "The refinement of TopK is not biased."
    if not topk:
        return [*out, untested(says, where, "There is nothing to compare.")]
    bias = Spread.of(row["refinement"]["bias"] for row in topk.values())
    verdict: Verdict = "reproduced" if abs(bias.mean) <= _UNBIASED else "not reproduced"
    out.append(Claim(says, where, f"Σ(f* − f)/Σf is {bias.text('+.3f')} at k = {setup.k}; up to {_UNBIASED} in size "
                     "counts as not biased.", verdict))
    out.append(compared(
        "The refinement of TopK is smaller in magnitude than ReLU's.", where, "Σ|f* − f|/Σf of TopK below it",
        [_paired(topk, rows, lambda row: row["refinement"]["size"], label) for label, rows in relu]))
    out.append(compared(
        "Refinement closes only part of the gap between ReLU and TopK.", where,
        "MSE of TopK, interpolated to ReLU's L0, below refined ReLU's",
        [_below_refined(results, rows, size, label) for label, rows in relu]))
    return out


def _paired(better: dict[int, Row], worse: dict[int, Row], read: Callable[[Row], float], setting: str
            ) -> Comparison | None:
    """Return by how many percent one SAE has less of a figure than another, paired by seed."""
    seeds = sorted(better.keys() & worse.keys())
    gains = [100 * (1 - read(better[seed]) / read(worse[seed])) for seed in seeds]
    return Comparison(setting, Spread.of(gains)) if gains else None


def _below_refined(results: Results, rows: dict[int, Row], size: int, setting: str) -> Comparison | None:
    gains = []
    for seed, row in rows.items():
        curve = [(one["l0"], one["fvu"]) for one in results.rows
                 if one["kind"] == "topk" and one["cell"]["n_latents"] == size and one["seed"] == seed]
        found = interpolated(curve, row["l0"])
        if found is not None:
            refined = row["refinement"]["fvu_after"] / row["refinement"]["fvu_before"] * row["fvu"]
            gains.append(100 * (1 - found / refined))
    return Comparison(setting, Spread.of(gains)) if gains else None


def _recovery(row: Row, k: int, rule: str = "topk") -> float:
    return float(row["recovery"][rule][str(k)])


def _ks_of(rows: dict[int, Row], wanted: Iterable[int]) -> list[int]:
    """Return the wanted k' that were measured."""
    first = next(iter(rows.values()), None)
    return [k for k in wanted if first and str(k) in first["recovery"]["topk"]]


def _progressive(results: Results, setup: Setup) -> list[Claim]:
    where, k = "section 5.3, figure 10", setup.k
    topk, multi = (results.of(kind, n_latents=setup.size, k=k) for kind in ("topk", "multi_topk"))
    far = _ks_of(topk, [8 * k])
    return [
        compared(f"TopK is a progressive code only up to the k of training: MSE is worse at 8k = {8 * k} than at k.",
                 where, "MSE at 8k above MSE at k", [_over_seeds(
                     topk, lambda row: 100 * (_recovery(row, 8 * k) / _recovery(row, k) - 1), "TopK") for _ in far]),
        compared("Multi-TopK is a progressive code at all k': MSE is not worse at 8k than at k.", where,
                 "MSE at 8k below MSE at k", [_over_seeds(
                     multi, lambda row: 100 * (1 - _recovery(row, 8 * k) / _recovery(row, k)), "Multi-TopK")
                     for _ in far]),
        compared("Multi-TopK does slightly worse than TopK at k.", "section 5.3.1",
                 "MSE of TopK below Multi-TopK's", [_paired(topk, multi, lambda row: row["fvu"], f"k = {k}")])]


def _thresholds(results: Results, setup: Setup) -> list[Claim]:
    """Judge whether a fixed threshold equals a fixed number of latents at test time."""
    where, k = "section 5.3.2, figure 10", setup.k
    topk, multi = (results.of(kind, n_latents=setup.size, k=k) for kind in ("topk", "multi_topk"))
    below, above = _ks_of(topk, [k // 4, k // 2]), _ks_of(topk, [4 * k, 8 * k])

    def worse(at: int) -> Callable[[Row], float]:
        return lambda row: 100 * (_recovery(row, at, "threshold") / _recovery(row, at) - 1)

    return [
        _superimposed("For TopK, the curves of a fixed k' and of a fixed threshold are superimposed below the L0 of "
                      "training.", where, [_over_seeds(topk, worse(at), f"k' = {at}") for at in below]),
        compared("For TopK, a fixed threshold is worse than a fixed k' above the L0 of training.", where,
                 "MSE of the threshold above TopK(k')'s",
                 [_over_seeds(topk, worse(at), f"k' = {at}") for at in above]),
        _superimposed("With Multi-TopK the two curves are nearly superimposed.", where,
                      [_over_seeds(multi, worse(at), f"k' = {at}") for at in [*below, *above]])]


def _superimposed(says: str, where: str, comparisons: list[Comparison | None]) -> Claim:
    known = [one for one in comparisons if one is not None]
    if not known:
        return untested(says, where, "There is nothing to compare.")
    largest = max(abs(one.difference.mean) for one in known)
    listed = "; ".join(f"{one.setting}: {one.difference.text('+.1f', '%')}" for one in known)
    verdict: Verdict = "reproduced" if largest <= _SUPERIMPOSED else "not reproduced"
    return Claim(says, where, f"MSE of the threshold above TopK(k')'s: {listed}. Up to {_SUPERIMPOSED:g}% counts "
                 "as superimposed.", verdict)


def law_of(results: Results, sizes: Iterable[int]) -> Law | None:
    """Fit L(n, k) to TopK's SAEs of some sizes; None if there are too few of them."""
    wanted = set(sizes)
    rows = [row for row in results.rows if row["kind"] == "topk" and row["cell"]["n_latents"] in wanted]
    try:
        return fit([row["cell"]["n_latents"] for row in rows], [row["cell"]["k"] for row in rows],
                   [row["fvu"] for row in rows])
    except ValueError:
        return None


def _scaling(results: Results, setup: Setup) -> list[Claim]:
    where = "section 3.1.3"
    joint = "MSE follows a joint law L(n, k) with an irreducible part."
    steeper = "L(n) gets steeper as k increases: γ is negative."
    law, sizes = law_of(results, setup.sizes), sorted(setup.sizes)
    if law is None:
        why = "The law needs at least 7 SAEs, of 3 sizes and 2 values of k."
        return [untested(joint, where, why), untested(steeper, where, why)]
    listed = "; ".join(f"{name} = {value:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")
                       for name, (value, low, high) in law.intervals().items())
    found = f"{listed}. Root mean square residual of ln MSE: {law.residual:.4f}."
    verdict: Verdict = "reproduced" if law.residual <= _PREDICTED else "not reproduced"
    smaller = law_of(results, sizes[:-1])
    if smaller is not None:
        errors = [abs(smaller.predict(sizes[-1], k) / s.mean - 1) for k in setup.ks
                  if (s := results.spread("topk", "fvu", n_latents=sizes[-1], k=k))]
        found += (f" Fitted without the largest size, it predicts n = {sizes[-1]:,} with a relative error of at most "
                  f"{max(errors):.1%}; up to {_PREDICTED:.0%} counts as reproduced.")
        verdict = "reproduced" if max(errors) <= _PREDICTED else "not reproduced"
    else:
        found += f" There are too few sizes to predict one; a residual up to {_PREDICTED} counts as reproduced."
    gamma, low, high = law.intervals()["gamma"]
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return [Claim(joint, where, found, verdict), Claim(
        steeper, where, f"γ = {gamma:.3f}{interval}; the paper found −0.042 on GPT-4.",
        "not tested here" if high is None else "reproduced" if high < 0 else "not reproduced")]


PAPER = Paper(
    "topk-scaling", "Scaling and evaluating sparse autoencoders", "Gao et al. 2024",
    "The paper trains on GPT-2 Small and GPT-4 with up to 40 billion tokens and 16 million latents, each size to "
    "convergence; here every SAE sees the same few tokens, so larger dictionaries are further from converged. MSE is "
    "normalised by the variance (NMSE). Loss with a fixed k' or threshold is measured on 20,000 held-out tokens.",
    cells, claims, lambda results, setup: topk_figures.figures(
        results, setup, law_of(results, setup.sizes), _LAMBDAS),
    defaults={"sizes": (256, 512, 1024, 2048), "size": 1024, "ks": (8, 16, 32, 64), "seeds": 3, "tokens": 400_000,
              "batch_tokens": 1_024},
    quick={"sizes": (32, 64, 128), "size": 64, "ks": (2, 4, 8), "k": 4, "seeds": 2, "tokens": 4_096,
           "batch_tokens": 256, "eval_tokens": 1_000, "ce_tokens": 256})
