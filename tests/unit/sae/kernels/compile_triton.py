"""Compilation of every Triton kernel to machine code, which needs no GPU: `python compile_triton.py 80 90`.

The interpreter allows Python's liberties with types and control flow; the compiler does not.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sae.kernels import triton_adam, triton_codes, triton_select

F, H, I32, I64 = "*fp32", "*bf16", "*i32", "*i64"
_LISTED: dict[str, str] = {"runs": I64, "bounds": F}
KERNELS: list[tuple[Any, dict[str, str], dict[str, Any]]] = [
    *[(triton_select._maxima_kernel, {"pre": pre, "out": F}, {"G": 128, "RUNS": 64}) for pre in (F, H)],
    (triton_select._digit_kernel, {"values": F, "count": I32, "state": I32}, {"SHIFT": 20, "WIDTH": 11, "TILE": 2048}),
    (triton_select._pick_kernel, {"count": I32, "state": I32}, {"WIDTH": 11}),
    (triton_select._row_bound_kernel, {"maxima": F, "bound": F}, {"R_TILE": 1024}),
    (triton_select._row_keep_kernel, {"values": F, "starts": I64, "keep": "*i8"}, {"TILE": 1024}),
    (triton_select._count_kernel, {"pre": H, "count": I32, **_LISTED}, {"AT_LEAST": False, "G": 64, "RUNS": 32}),
    (triton_select._write_kernel, {"pre": H, "starts": I64, "flat_out": I64, "value_out": F, **_LISTED},
     {"AT_LEAST": True, "G": 64, "RUNS": 32}),
    *[(triton_codes._sums_kernel,
       {"rows_of": I64, "weights": F, "rows": rows, "starts": I64, "ends": I64, "segment_of": I64, "lasts": I64,
        "out": F, "pieces": F}, {"PIECE": 128, "UNROLL": 4, "TILE": 1024}) for rows in (F, H)],
    (triton_codes._join_kernel, {"pieces": F, "further": I64, "lasts": I64, "out": F}, {"TILE": 512}),
    (triton_codes._dots_kernel, {"tokens": I64, "latents": I64, "x": F, "W": H, "out": F}, {"PAIRS": 4, "TILE": 512}),
    *[(triton_adam._norm_kernel, {"grad": F, "W": F, "out": F}, {"UNIT": unit, "TILE": 1024})
      for unit in (True, False)],
    *[(triton_adam._adam_kernel,
       {**dict.fromkeys(("W", "grad", "means", "squares", "clip"), F),
        **dict.fromkeys(("rate", "root", "beta1", "beta2", "eps"), "fp32")},
       {"UNIT": unit, "TILE": 1024}) for unit in (True, False)],
]


def main() -> None:
    for capability in map(int, sys.argv[1:]):
        for kernel, types, constants in KERNELS:
            signature = {name: "constexpr" if name in constants else types.get(name, "i32")
                         for name in kernel.arg_names}
            where = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
            source = ASTSource(fn=kernel, signature=signature, constexprs=where)
            triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
            print(capability, kernel.__name__)


if __name__ == "__main__":
    main()
