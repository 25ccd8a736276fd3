"""Registers, shared memory and spills of every Triton kernel, compiled for GPUs that need not be there.

    python -m benchmarks.kernel_table                   sm_80, sm_90, sm_100 and gfx942, every form of every kernel
    python -m benchmarks.kernel_table --brief           one form of each kernel
    python -m benchmarks.kernel_table --write           also write the table to benchmarks/results

Compiling measures no time.  Registers and spilled bytes are read from the machine code: for NVIDIA by the `cuobjdump`
that Triton ships, for AMD from the notes in the assembly.  A spill is local memory of a thread, which is as slow as
the device's memory.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks._gpu_kernels import Case, cases
from benchmarks._report import emit, table, write

TARGETS = {"sm_80": GPUTarget("cuda", 80, 32), "sm_90": GPUTarget("cuda", 90, 32),
           "sm_100": GPUTarget("cuda", 100, 32), "gfx942": GPUTarget("hip", "gfx942", 64)}


@dataclass(frozen=True)
class Usage:
    """The resources of a compiled kernel: registers of a thread, a program's bytes of shared memory, spilled bytes."""

    registers: int
    shared: int
    spilled: int


def compiled(case: Case, target: GPUTarget) -> Any:
    """Return the kernel compiled for a target.  Raises what Triton raises for a kernel that it cannot compile."""
    signature = {name: "constexpr" if name in case.constants else case.types.get(name, "i32")
                 for name in case.kernel.arg_names}
    where = {(case.kernel.arg_names.index(name),): value for name, value in case.constants.items()}
    return triton.compile(ASTSource(fn=case.kernel, signature=signature, constexprs=where), target=target,
                          options={"num_warps": case.warps})


def usage(kernel: Any) -> Usage:
    """Read what a compiled kernel uses from its machine code."""
    if "amdgcn" in kernel.asm:
        notes = kernel.asm["amdgcn"]
        registers, spilled = (int(_match(rf"\.{name}:\s+(\d+)", notes)) for name in (
            "vgpr_count", "private_segment_fixed_size"))
        return Usage(registers, kernel.metadata.shared, spilled)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        text = subprocess.run([str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(_match(rf"{name}:(\d+)", text)) for name in ("REG", "STACK", "LOCAL"))
    return Usage(registers, kernel.metadata.shared, stack + local)


def _match(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern} in what the compiler says")
    return found[1]


def chosen(brief: bool) -> Iterator[Case]:
    """Yield every case, or the first of each kernel."""
    seen = set()
    for case in cases():
        if not brief or case.name not in seen:
            seen.add(case.name)
            yield case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brief", action="store_true", help="one form of each kernel")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows, figures = [], []
    for case in chosen(options.brief):
        found = {name: usage(compiled(case, TARGETS[name])) for name in options.targets}
        figures.append({"kernel": case.name, "form": case.note, "warps": case.warps,
                        **{name: vars(one) for name, one in found.items()}})
        rows.append([case.name, case.note, case.warps, *(
            f"{one.registers} / {one.shared:,} / {one.spilled}" for one in found.values())])
    text = table(["kernel", "form", "warps", *options.targets], rows)
    spilled = sorted({f"{figure['kernel']} ({figure['form']})" for figure in figures
                      if any(figure[name]["spilled"] for name in options.targets)})
    summary = f"{len(figures)} forms.  Kernels that spill: {', '.join(spilled) or 'none'}."
    if not options.json:
        print(f"registers / shared bytes / spilled bytes\n\n{text}\n\n{summary}")
    emit("kernel_table", {"kernels": figures}, [], options.json)
    if options.write:
        write("kernel_table", "What the Triton kernels use", __doc__ or "",
              f"Each cell: registers of a thread / shared bytes / spilled bytes.  {summary}\n\n{text}")


if __name__ == "__main__":
    main()
