"""Tests of the grid and the verdicts of "Scaling and evaluating sparse autoencoders"."""

from __future__ import annotations

import math

from sae.evaluation.scaling_law import PAPER as GPT4
from sae.reproduce.results import Results
from sae.reproduce.setup import Cell, Setup
from sae.reproduce.topk_scaling import PAPER, cells, claims, law_of
from tests.unit.sae.reproduce.rows import SETUP, rows_of


def law(cell: Cell, seed: int) -> float:
    """Return the paper's L(n, k) at an SAE's L0, lower for TopK than for the others."""
    k = cell.k if cell.architecture not in ("relu", "gated") else 2.4 / cell.l1_coefficient
    x, y = math.log(k), math.log(cell.n_latents)
    p = GPT4
    value = math.exp(p["alpha"] + p["beta_k"] * x + p["beta_n"] * y + p["gamma"] * x * y) + math.exp(
        p["zeta"] + p["eta"] * x)
    ahead = {"topk": 1.0, "multi_topk": 1.01, "jumprelu": 1.03, "relu": 1.2, "gated": 1.1}[cell.kind]
    return value * ahead * (1 + 1e-5 * seed * (1 + math.sin(cell.n_latents + cell.k)))


def test_the_grid_has_every_size_and_k_and_the_other_architectures_at_one_size() -> None:
    grid = cells(SETUP)
    topk = [(cell.n_latents, cell.k) for cell in grid if cell.kind == "topk"]
    assert sorted(topk) == sorted((n, k) for n in SETUP.sizes for k in SETUP.ks)
    assert {cell.kind for cell in grid if cell.n_latents == 512} == {"topk", "multi_topk", "jumprelu", "relu", "gated"}
    assert [cell.label for cell in grid if cell.detailed] == [
        "topk, L = 512, k = 16", "multi_topk, L = 512, k = 16", "relu, L = 512, λ = 0.06", "relu, L = 512, λ = 0.12",
        "relu, L = 512, λ = 0.24"]


def test_a_grid_that_follows_the_paper_reproduces_it() -> None:
    found = claims(Results(rows_of(PAPER, law)), SETUP)
    verdicts = {claim.says: claim.verdict for claim in found}
    assert len(verdicts) == len(found) == 18
    assert [says for says, verdict in verdicts.items() if verdict == "not reproduced"] == []
    # L(C), other measures, and the joint law, because three sizes are too few to predict one.
    assert sum(verdict == "not tested here" for verdict in verdicts.values()) == 3
    joint = next(claim for claim in found if "joint law" in claim.says)
    assert joint.verdict == "not tested here"
    assert "There are too few sizes to fit the law without the largest one" in joint.found


def test_with_four_sizes_the_largest_is_predicted_from_the_others() -> None:
    setup = Setup(**{**SETUP.model_dump(), "sizes": (128, 256, 512, 1024)})
    rows = [row for n in setup.sizes for row in rows_of(PAPER, law) if row["cell"]["n_latents"] == 512]
    for number, row in enumerate(rows):
        n = setup.sizes[number // (len(rows) // 4)]
        row["cell"] = {**row["cell"], "n_latents": n}
        row["fvu"] = law(Cell(**row["cell"]), row["seed"])
    found = next(claim for claim in claims(Results(rows), setup) if "joint law" in claim.says)
    assert "predicts n = 1,024 with a relative error of at most 0." in found.found
    assert found.verdict == "reproduced"
    worse = [{**row, "fvu": row["fvu"] * (1.3 if row["cell"]["n_latents"] == 1024 else 1)} for row in rows]
    found = next(claim for claim in claims(Results(worse), setup) if "joint law" in claim.says)
    assert found.verdict == "not reproduced"


def test_claims_fail_when_the_data_say_so() -> None:
    flipped = rows_of(PAPER, lambda cell, seed: law(cell, seed) * (0.7 if cell.kind == "relu" else 1.0))
    for row in flipped:
        if "refinement" in row:
            row["refinement"] |= {"bias": 0.05 if row["kind"] == "topk" else -0.01 - 1e-4 * row["seed"]}
            row["recovery"]["topk"] = {k: 1 / int(k) for k in row["recovery"]["topk"]}
    found = {claim.says: claim.verdict for claim in claims(Results(flipped), SETUP)}
    for says in ("TopK has a lower MSE than ReLU SAEs at equal L0.", "The refinement of TopK is not biased.",
                 "Refined activations of ReLU SAEs are larger: the L1 penalty shrinks activations.",
                 "TopK is a progressive code only up to the k of training: MSE is worse at 8k = 128 than at k."):
        assert found[says] == "not reproduced", says


def test_too_small_a_grid_has_no_law() -> None:
    assert law_of(Results(rows_of(PAPER, law)), (256, 512)) is None
    assert {claim.verdict for claim in claims(Results([]), SETUP)} == {"not tested here"}
