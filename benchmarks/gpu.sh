#!/usr/bin/env bash
# Proves and measures the GPU path on a bare machine with Python, torch and Triton, in less than 8 minutes.
#
#   benchmarks/gpu.sh                     on the first CUDA device; writes benchmarks/results/gpu_<device>_<date>.md
#   benchmarks/gpu.sh --dry-run           the same steps at small sizes on a pretended device; measures nothing
#   PYTHON=/path/to/python benchmarks/gpu.sh
#
# SAELens is measured beside if `benchmarks/peers/saelens` is there (`python -m benchmarks.train_step` makes it).
# All other arguments go to `python -m benchmarks.gpu`.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
export HF_HUB_OFFLINE=1
case " $* " in
  *" --dry-run "*) export TRITON_INTERPRET=1 ;;
  *) "$PYTHON" -c 'import torch, triton; assert torch.cuda.is_available(), "no CUDA device"' ;;
esac
exec "$PYTHON" -m benchmarks.gpu "$@"
