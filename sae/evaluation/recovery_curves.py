"""The recovery measure: reconstruction at other sparsities, refinement, and the histogram of L0 with BOS.

The methods are in `sae.evaluation.recovery`.  Source: Gao et al. 2024, sections 5.1 and 5.3 (figures 9 and 10), and
Bussmann et al. 2024, "BatchTopK sparse autoencoders" (figure 3).

Shapes: N tokens, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from sae.evaluation.intervals import jackknife
from sae.evaluation.measure import Progress, Result, Subject, Value
from sae.evaluation.reading import first_contexts, read_tokens, stages
from sae.evaluation.recovery import Refinement, Rule, progressive_recovery, refine

DEFINITIONS: dict[str, str] = {
    "refinement_bias":
        "Σ(f* − f) / Σ f, where f* are the least-squares activations of the same active latents: above 0 if the SAE "
        "shrinks activations.",
    "refinement_size": "Σ|f* − f| / Σ f: by how much refinement moves activations.",
    "fvu_refined": "FVU with refined activations.",
    "fvu_own": "FVU with the SAE's own activations on the same tokens.",
    "recovery_best_k_topk": "Number of latents per token, by TopK, at which the FVU is lowest.",
    "recovery_best_k_threshold": "Mean number of latents per token, by one threshold, at which the FVU is lowest.",
    "recovery_fvu_double_topk":
        "FVU with twice the SAE's L0, by TopK, divided by the FVU at its L0: above 1 if the SAE overfits to its k.",
    "recovery_fvu_double_threshold":
        "FVU with twice the SAE's mean L0, by one threshold, divided by the FVU at its L0.",
    "l0": "Mean number of active latents per token, without BOS.",
    "l0_bos": "Number of active latents on BOS, which is the same in every context.",
}
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MAX_K = 1 << 10
RULES: tuple[Rule, ...] = ("topk", "threshold")


@dataclass(frozen=True)
class Recovery:
    """Curves of the FVU over k', refined activations, and the histogram of L0."""

    n_tokens: int = 4_096  # for the curves
    refined_tokens: int = 1_024
    l0_tokens: int = 20_000
    name: str = "recovery"

    def refuse(self, subject: Subject) -> str | None:
        return None if len(subject.contexts) else "recovery: there is no held-out context to read"

    def run(self, subject: Subject, progress: Progress) -> Result:
        sae, (counting, curves, refining) = subject.sae, stages(progress, 4, 5, 2)
        histogram = l0_histogram(subject, self.l0_tokens, counting)
        batches = list(read_tokens(subject, first_contexts(subject, self.n_tokens), curves))
        x_ND = torch.cat([batch.x_ND for batch in batches])[: self.n_tokens]
        target_ND = torch.cat([batch.target_ND for batch in batches])[: self.n_tokens]
        l0 = sum(k * n for k, n in histogram["n"].items()) / max(1, sum(histogram["n"].values()))
        own_k = min(max(1, round(l0)), sae.n_latents)
        ks = sorted({2**i for i in range(int(math.log2(min(_MAX_K, sae.n_latents))) + 1)}
                    | {own_k, min(2 * own_k, sae.n_latents)})
        fvu = {}
        for number, rule in enumerate(RULES):
            curves(number + 1, len(RULES) + 1)
            fvu[rule] = progressive_recovery(sae, x_ND, ks, rule, target_ND)
        refining(0, 1)
        n = min(self.refined_tokens, len(x_ND))
        refined = refine(sae, x_ND[:n], target_ND[:n])
        refining(1, 1)
        values = [*refinement_values(refined, n)]
        for rule in RULES:
            best = min(ks, key=lambda k, rule=rule: fvu[rule][k])  # type: ignore[misc]
            values.append(Value(f"recovery_best_k_{rule}", best, n=len(x_ND)))
            double = fvu[rule][min(2 * own_k, sae.n_latents)] / fvu[rule][own_k]
            values.append(Value(f"recovery_fvu_double_{rule}", double, n=len(x_ND)))
        bos = histogram["bos"]
        values += [Value("l0", l0, n=sum(histogram["n"].values())),
                   Value("l0_bos", max(bos) if bos else None, n=sum(bos.values()))]
        return Result(self.name, tuple(values), {
            "own_k": own_k, "tokens": len(x_ND), "refined_tokens": n,
            "curves": {rule: [{"k": k, "fvu": fvu[rule][k]} for k in ks] for rule in RULES},
            "refinement": {"shares": list(_QUANTILES), "quantiles": refined.quantiles(_QUANTILES)
                           if len(refined.before.value_N) else []},
            "l0_histogram": [{"l0": k, "n": histogram["n"].get(k, 0), "n_bos": bos.get(k, 0)}
                             for k in sorted({*histogram["n"], *bos})]})


def refinement_values(refined: Refinement, n: int) -> list[Value]:
    """Return the numbers of a refinement of `n` tokens; those that are sums over tokens have intervals."""
    before = refined.before.value_N.cpu().double()
    moved = refined.after.value_N.cpu().double() - before
    if not len(before):
        return [Value("refinement_bias", None, n=n, note="no latent is active"),
                Value("refinement_size", None, n=n, note="no latent is active"),
                Value("fvu_own", refined.fvu_before, n=n), Value("fvu_refined", refined.fvu_after, n=n)]
    n_parts = min(20, n)
    part_P = (refined.before.token_N * n_parts // n).cpu()
    sums_3 = np.stack([np.bincount(part_P, weights=column, minlength=n_parts)
                       for column in (before, moved, moved.abs())])

    def numbers(i: int | None) -> dict[str, float | None]:
        total, bias, size = sums_3.sum(axis=1) - (0 if i is None else sums_3[:, i])
        return {"refinement_bias": bias / total if total else None, "refinement_size": size / total if total else None}

    found = jackknife(numbers, n_parts)
    return [*(Value(v.key, v.value, v.low, v.high, n) for v in found.values()),
            Value("fvu_own", refined.fvu_before, n=n), Value("fvu_refined", refined.fvu_after, n=n)]


def l0_histogram(subject: Subject, n_tokens: int, progress: Progress) -> dict[str, dict[int, int]]:
    """Count tokens by their number of active latents: `n` without BOS, and `bos`."""
    out: dict[str, dict[int, int]] = {"n": {}, "bos": {}}
    for batch in read_tokens(subject, first_contexts(subject, n_tokens), progress, with_bos=True):
        l0_N, is_bos_N = subject.sae.codes(batch.x_ND).l0_B().cpu(), batch.position_N == 0
        for name, chosen_N in (("n", ~is_bos_N), ("bos", is_bos_N)):
            for l0, count in enumerate(torch.bincount(l0_N[chosen_N]).tolist()):
                if count:
                    out[name][l0] = out[name].get(l0, 0) + count
    return out
