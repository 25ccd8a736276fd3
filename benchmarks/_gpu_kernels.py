"""Every Triton kernel with the types and constants that its callers can choose: the list behind the tests that
compile them and the table of their registers.

A case is what `triton.compile` needs: the types of the arguments, the constants, and the number of warps.  The widths
of rows and latents decide the constants; `SHAPES` are those of models from the demo (D = 256) to 16,384, and of SAEs
from 1,024 to a million latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import triton

from sae.kernels import triton_adam, triton_batch_topk, triton_codes, triton_rows, triton_select

F, H, I32, I64 = "*fp32", "*bf16", "*i32", "*i64"
WIDTHS = (256, 768, 1600, 4096, 16_384)  # D
RUN_LENGTHS = (16, 32, 64, 128)  # G, see `triton_select.run_length`
_DIGITS = {H: ((23, 8), (16, 7), (16, 0)), F: ((20, 11), (9, 11), (0, 9))}


@dataclass(frozen=True)
class Case:
    """A kernel with its types and constants."""

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int = 4
    note: str = ""

    @property
    def name(self) -> str:
        return str(self.kernel.__name__).strip("_")


def cases() -> Iterator[Case]:
    """Yield every kernel in every form in which the program launches it."""
    yield from _selection()
    yield from _batch_topk()
    yield from _products()
    yield from _rows()


def _selection() -> Iterator[Case]:
    for pre in (F, H):
        for G in RUN_LENGTHS:
            yield Case(triton_select._maxima_kernel, {"pre": pre, "out": F}, {"G": G, "RUNS": 8192 // G}, 8,
                       f"{pre} G={G}")
            for kernel, out in ((triton_select._count_kernel, {"count": I32}),
                                (triton_select._write_kernel, {"ends": I64, "flat_out": I64, "value_out": F})):
                by_count = kernel is triton_select._write_kernel
                for at_least in (True, False) if G == 64 else (True,):
                    skip = I32 if by_count or not at_least else F
                    yield Case(kernel, {"pre": pre, "skip": skip, "bounds": F, **out},
                               {"AT_LEAST": at_least, "BY_COUNT": by_count, "G": G, "RUNS": 2048 // G}, 4,
                               f"{pre} G={G} {'reach' if at_least else 'above'}")
    for shift, width in triton_select._DIGITS:
        yield Case(triton_select._digit_kernel, {"values": F, "count": I32, "state": I32},
                   {"SHIFT": shift, "WIDTH": width, "TILE": 2048}, 8, f"digit at {shift}")
        yield Case(triton_select._pick_kernel, {"count": I32, "state": I32}, {"WIDTH": width}, 4, f"{width} bits")
    for tile in (256, 1024, 8192):
        yield Case(triton_select._row_bound_kernel, {"maxima": F, "bound": F}, {"R_TILE": tile}, 4, f"R={tile}")
    yield Case(triton_select._row_keep_kernel, {"values": F, "starts": I64, "keep": "*i8"}, {"TILE": 1024})


def _batch_topk() -> Iterator[Case]:
    m = triton_batch_topk
    for pre, ((S0, W0), (S1, W1), (S2, W2)) in _DIGITS.items():
        shape = {"S0": S0, "W0": W0, "S1": S1, "W1": W1, "S2": S2, "W2": W2, "WIDTH": 1 << max(W0, W1, W2)}
        for number in range(2):
            yield Case(m._maxima_digit_kernel, {"maxima": F, "counts": I32},
                       {**shape, "NUMBER": number, "TILE": 2048}, 8, f"{pre} digit {number}")
        yield Case(m._starts_kernel, {"counts": I32, "above": I32, "tied": I32, "starts": I64},
                   {**shape, "TILE": 1024}, 4, pre)
        for G in RUN_LENGTHS:
            tiles = {"G": G, "RUNS": 2048 // G}
            common = {"pre": pre, "maxima": F, "counts": I32}
            for number in range(3 if W2 else 2):
                yield Case(m._entry_digit_kernel, common, {**shape, "NUMBER": number, **tiles}, 8,
                           f"{pre} G={G} digit {number}")
            yield Case(m._row_count_kernel, {**common, "above_out": I32, "tied_out": I32}, {**shape, **tiles}, 4,
                       f"{pre} G={G}")
            yield Case(m._row_write_kernel, {**common, "given": I32, "starts": I64, "token_out": I64, "latent_out": I64,
                                             "value_out": F}, {**shape, **tiles}, 4, f"{pre} G={G}")


def _products() -> Iterator[Case]:
    for D in WIDTHS:
        tile, warps = triton_codes._tile(D)
        for one_row, ordered, row_type, key in (
                (False, False, I64, I64), (False, True, I64, I32), (True, True, F, I32)):
            if one_row and WIDTHS[0] != D:
                continue
            yield Case(triton_codes._sums_kernel,
                       {"rows_of": row_type, "weights": F, "order": I64 if ordered else F, "keys": key, "rows": F,
                        "bounds": I64, "out": F, "pieces": F, "scale": "fp32"},
                       {"ONE_ROW": one_row, "ORDERED": ordered, "PIECE": triton_codes._PIECE,
                        "UNROLL": triton_codes._UNROLL, "TILE": tile}, warps,
                       f"D={D}{' one row' * one_row}{' ordered' * ordered}")
        yield Case(triton_codes._join_kernel, {"pieces": F, "bounds": I64, "out": F},
                   {"PIECE": triton_codes._PIECE, "TILE": tile}, warps, f"D={D}")
        even = D & -D
        dots = min(512, even if even >= 128 else triton.next_power_of_2(max(D, 16)))
        yield Case(triton_codes._dots_kernel,
                   {"tokens": I64, "latents": I64, "x": F, "W": F, "out": F, "scale": "fp32"},
                   {"PAIRS": 4, "TILE": dots}, 4, f"D={D}")


def _rows() -> Iterator[Case]:
    for D in WIDTHS:
        tile, warps = triton_adam._tile(D)
        rates = dict.fromkeys(("clip", "rate", "root", "beta1", "beta2", "eps"), "fp32")
        for unit, bias in ((True, False), (False, True), (False, False)):
            what = f"D={D}{' unit' * unit}{' biases' * bias}"
            yield Case(triton_adam._norm_kernel, dict.fromkeys(("grad", "W", "bias_grad", "out"), F),
                       {"UNIT": unit, "BIAS": bias, "TILE": tile}, warps, what)
            yield Case(triton_adam._adam_kernel, {
                **dict.fromkeys(("W", "grad", "means", "squares", "bias", "bias_grad", "bias_means", "bias_squares",
                                 "square"), F), **rates},
                {"UNIT": unit, "BIAS": bias, "CLIP_EPS": triton_adam.CLIP_EPS, "TILE": tile}, warps, what)
        for bias in (True, False):
            packed = triton.next_power_of_2(D + 2)
            yield Case(triton_rows._pack_kernel, {"rows": F, "bias": F if bias else H, "out": H},
                       {"BIAS": bias, "TILE": packed}, triton_rows._warps(packed), f"D={D}{' biases' * bias}")
        whole = triton.next_power_of_2(D)
        yield Case(triton_rows._residual_kernel,
                   {"decoded": F, "b_dec": F, "target": F, "loss": F, "per_token": "fp32"}, {"TILE": whole},
                   triton_rows._warps(whole), f"D={D}")
    yield Case(triton_rows._silence_kernel, {"silent": I64, "bounds": I64}, {"TILE": 1024})
