"""Each kernel of the training step on a GPU: its time, torch's time, and its share of the device's maximum.

    python -m benchmarks.kernels                       L = 12,288, 24,576 and 131,072; B = 4096, D = 768, k = 32, bf16
    python -m benchmarks.kernels --n-latents 65536     another size

The device's maximum is measured first, in the same run: the copy rate (a device-to-device copy, bytes read and
written) and the matrix rate (a bf16 product of two 8192 x 8192 matrices).  `bytes` is the minimum that must cross the
memory bus, every operand once; a share above 1 means that operands came from the cache.  Times are medians of
20 runs after 5 warm-up runs, by CUDA events, with the cache flushed before each.  Without a CUDA device nothing is
measured.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks._report import emit, machine, table

B, D, K = 4096, 768, 32


@dataclass
class Case:
    """One kernel at one size, torch's equivalent, and the minimum of bytes and floating-point operations."""

    name: str
    ours: Callable[[], object]
    torchs: Callable[[], object] | None
    n_bytes: float = 0.0
    flop: float = 0.0


def cases(n_latents: int, device: str, B: int = B, D: int = D, k: int = K) -> Iterator[Case]:
    """Yield all kernels on plausible data: unit directions, and a batch with about k active latents per token."""
    from sae.kernels import triton_adam, triton_codes, triton_select

    L = n_latents
    generator = torch.Generator(device=device).manual_seed(0)
    x_BD = torch.randn(B, D, generator=generator, device=device)
    W_LD = torch.nn.functional.normalize(torch.randn(L, D, generator=generator, device=device), dim=1)
    x_half, W_half = x_BD.bfloat16(), W_LD.bfloat16()
    pre_BL = x_half @ W_half.T
    theta_L = torch.full((L,), float(pre_BL.float().flatten()[:: max(1, B * L >> 20)].quantile(1 - k / L)),
                         device=device)
    yield Case("encoder product", lambda: x_half @ W_half.T, None, 2.0 * (B * D + L * D + B * L), 2.0 * B * D * L)

    def sorted_topk() -> Tensor:
        return pre_BL.flatten().topk(k * B, sorted=False).indices

    yield Case("batch_topk", lambda: triton_select.batch_topk(pre_BL, k * B, padded=True), sorted_topk, 2.0 * B * L)
    yield Case("row_topk", lambda: triton_select.row_topk(pre_BL, k), lambda: pre_BL.topk(k, dim=1, sorted=False),
               2.0 * B * L)
    yield Case("entries_above θ [L]", lambda: triton_select.entries_above(pre_BL, theta_L),
               lambda: (pre_BL > theta_L).nonzero(), 2.0 * B * L)

    codes = triton_select.batch_topk(pre_BL, k * B)
    n, rows = len(codes.value_N), min(L, len(codes.value_N))
    latent_N, order_N = torch.sort(codes.latent_N.int(), stable=True)
    bounds_L1 = torch.searchsorted(latent_N, torch.arange(L + 1, dtype=torch.int32, device=device))
    dense_BL = torch.zeros_like(pre_BL)
    dense_BL[codes.token_N, codes.latent_N] = codes.value_N.bfloat16()
    yield Case("sort by latent", lambda: torch.argsort(codes.latent_N.int(), stable=True), None, 16.0 * n)
    yield Case("decode", lambda: triton_codes.segment_sums(
        codes.latent_N, codes.value_N, codes.bounds_B1, codes.token_N, W_LD),
               lambda: dense_BL @ W_half, 4.0 * D * (rows + B))
    yield Case("sampled_product", lambda: triton_codes.sampled_product(codes.token_N, codes.latent_N, x_BD, W_LD),
               lambda: x_half @ W_half.T, 4.0 * D * (rows + B))
    yield Case("transpose_matmul", lambda: triton_codes.segment_sums(
        codes.token_N, codes.value_N, bounds_L1, latent_N, x_BD, order_N), lambda: dense_BL.T @ x_half,
               4.0 * D * (B + L))

    grad_LD, mean_LD, square_LD = torch.randn_like(W_LD), torch.zeros_like(W_LD), torch.ones_like(W_LD)
    norm_L = torch.empty(L, device=device)

    def fused() -> None:
        triton_adam.square_norms(grad_LD, W_LD, norm_L, unit=True)
        triton_adam.adam_step(W_LD, grad_LD, (mean_LD, square_LD), square=norm_L.sum(), clip=1.0, step=10, lr=1e-4,
                              betas=(0.9, 0.99), eps=6.25e-10, unit=True)

    weight = torch.nn.Parameter(W_LD.clone())
    optimizer = torch.optim.Adam([weight], lr=1e-4, betas=(0.9, 0.99), eps=6.25e-10, fused=device != "cpu")

    @torch.no_grad()
    def separate() -> None:
        weight.grad = grad_LD - (grad_LD * weight).sum(dim=1, keepdim=True) * weight
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()
        weight.data /= weight.norm(dim=1, keepdim=True)

    yield Case("Adam of unit rows", fused, separate, 4.0 * 9 * L * D)


def seconds(work: Callable[[], object], flush: Tensor, repeats: int = 20) -> float:
    """Return the median time of one call on the current device, by CUDA events."""
    times = []
    for number in range(repeats + 5):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        if number >= 5:
            times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def rates(flush: Tensor) -> tuple[float, float]:
    """Return the bytes per second of a copy (read and written) and the bf16 FLOP per second of a square product."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    square = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    return (2 * len(source) / seconds(lambda: target.copy_(source), flush),
            2 * 8192**3 / seconds(lambda: square @ square, flush))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n-latents", type=int, nargs="+", default=[12_288, 24_576, 131_072])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("not measured: no CUDA device")
        emit("kernels", None, [], args.json)
        return
    flush = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    copy_rate, matrix_rate = rates(flush)
    results: dict[str, Any] = {"copy_bytes_per_s": copy_rate, "matrix_flop_per_s": matrix_rate, "sizes": {}}
    print(f"{machine()['gpu']}: copies {copy_rate / 1e12:.2f} TB/s, bf16 products {matrix_rate / 1e12:.0f} TFLOP/s")
    for n_latents in args.n_latents:
        rows, kept = [], {}
        for case in cases(n_latents, "cuda"):
            ours = seconds(case.ours, flush)
            torchs = seconds(case.torchs, flush) if case.torchs else None
            share = case.n_bytes / ours / copy_rate
            of_matrix = case.flop / ours / matrix_rate if case.flop else None
            kept[case.name] = {"ms": ours * 1e3, "torch_ms": torchs and torchs * 1e3, "copy_share": share,
                               "matrix_share": of_matrix}
            rows.append([case.name, f"{ours * 1e3:.3f}", "" if torchs is None else f"{torchs * 1e3:.3f}",
                         f"{share:.0%}", "" if of_matrix is None else f"{of_matrix:.0%}"])
        results["sizes"][n_latents] = kept
        print(f"\nL = {n_latents:,}, B = {B:,}, D = {D}, k = {K}")
        print(table(["kernel", "ms", "torch, ms", "of copy rate", "of matrix rate"], rows))
    emit("kernels", results, [], args.json)


if __name__ == "__main__":
    main()
