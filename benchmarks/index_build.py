"""The index compared with SAEDashboard on the same model, SAE and tokens, in one run.

    python -m benchmarks.index_build [--latents 512] [--large] [--json]

The benchmark trains BatchTopK SAEs of 4,096 and of 12,288 latents on the embedded language model and takes 131,072
tokens of the standard library in whole contexts.  For either SAE it times (a) saescope's build, including the language
model and the file, each in a separate process, whose peak memory is read, and (b) `SaeVisRunner.run` of SAEDashboard
0.8.0 for some of the latents, in its own virtual environment.  The fastest of several runs counts.  saescope reads the
text once for all latents and SAEDashboard once for each 256 of them, so the ratio grows with the size of the SAE; the
bar is for the larger one, GPT-2 small's usual size.  Then saescope's build alone is timed over 1 to 8 times the tokens.
`--large` adds a build of 65,536 latents over a million tokens (random decoder, θ calibrated to 32 latents per token).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._peers import PEERS, environment
from benchmarks._report import bar, emit, table
from sae.autoencoder.artefact import Autoencoder
from sae.autoencoder.config import read_config
from sae.data.corpus import Corpus, prepare
from sae.evaluation.metrics import calibrate_threshold
from sae.formats.writers.archive import write_folder
from sae.formats.writers.saelens import members
from sae.index.build import build
from sae.lm.bridge import LanguageModel
from sae.lm.model_info import DEMO_PATH
from sae.specs.registry import IndexSettings
from sae.store.page_file import page_file_path
from sae.workspace.paths import Workspace

TOKENS = 131_072
CONTEXT = 128
SAE_ID = "demo/bench"
WIDE_ID = "demo/bench-wide"
SIZES = {SAE_ID: 4096, WIDE_ID: 12_288}  # latents
LARGE_ID = "demo/large"
LARGE_LATENTS, LARGE_TOKENS = 65_536, 1_000_000
RUNS, PEER_RUNS = 3, 2  # the fastest of these counts


def prepare_all(root: Path, large: bool) -> None:
    """Prepare the text, two trained SAEs, and with `large` a random one of 65,536 latents."""
    for sae_id, n_latents in SIZES.items():
        subprocess.run([sys.executable, "-m", "sae", "train", "--name", sae_id.partition("/")[2], "--n-latents",
                        str(n_latents), "--normalize", "dataset", "--tokens", "400000", "--eval-tokens", "20000",
                        "--ce-tokens", "2000", "--dead-after-tokens", "200000", "--no-index"],
                       check=True, env=_environment(root), stdout=subprocess.DEVNULL)
    if large:
        _random_sae(Workspace(root))


def _environment(root: Path) -> dict[str, str]:
    return {**os.environ, "SAESCOPE_HOME": str(root)}


def _open(workspace: Workspace) -> tuple[LanguageModel, Corpus]:
    lm = LanguageModel.load("demo")
    return lm, prepare("stdlib", "text", "train", lm, CONTEXT, workspace, lambda done, total: None, lambda: False)


def _random_sae(workspace: Workspace) -> None:
    """Save an SAE with random unit decoder rows, the same matrix as the encoder, and θ for a mean L0 of 32."""
    lm, corpus = _open(workspace)
    config = read_config(workspace.sae(SAE_ID)) | {
        "id": LARGE_ID, "n_latents": LARGE_LATENTS, "normalize": "layer_norm"}
    generator = torch.Generator().manual_seed(0)
    W_LD = torch.nn.functional.normalize(torch.randn(LARGE_LATENTS, lm.info.d_model, generator=generator), dim=1)
    zeros = torch.zeros(LARGE_LATENTS), torch.zeros(lm.info.d_model)
    sae = Autoencoder({"W_enc": W_LD, "b_enc": zeros[0], "W_dec": W_LD.clone(), "b_dec": zeros[1],
                       "threshold": torch.zeros(1)}, config)
    tokens_PS = torch.from_numpy(_whole(corpus, 4096).tokens.astype(np.int64))
    x_BD = lm.activations(tokens_PS, sae.hook)[:, 1:].reshape(-1, lm.info.d_model)
    sae.sparsity.threshold = calibrate_threshold(sae, [x_BD], 32)
    sae.save(workspace.sae(LARGE_ID))


def _whole(corpus: Corpus, n_tokens: int) -> Corpus:
    """Return whole contexts with `n_tokens` tokens, including BOS; a text that is too short is repeated."""
    rows = np.flatnonzero(corpus.length == CONTEXT)
    rows = np.resize(rows, n_tokens // CONTEXT)
    return dataclasses.replace(
        corpus, tokens=np.asarray(corpus.tokens[rows]), length=corpus.length[rows], doc=corpus.doc[rows],
        offset=corpus.offset[rows], held_out=corpus.held_out[rows])


def ours(root: Path, sae_id: str, n_tokens: int) -> None:
    """Make one build in this process and print its time, memory and size."""
    workspace = Workspace(root)
    lm, corpus = _open(workspace)
    sae = Autoencoder.load(workspace.sae(sae_id))
    chosen = _whole(corpus, n_tokens)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "build.duckdb"
        started = time.perf_counter()
        build(lm, sae, chosen, IndexSettings(index_tokens=n_tokens), path, provenance={"run": "", "command": ""},
              checkpoint=Path(folder) / "index.pt")
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in (path, page_file_path(path)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "tokens": n_tokens, "latents": sae.n_latents, "peak_GB": peak / 1e6,
                      "before_GB": before / 1e6, "file_MB": size / 1e6}))


def _ours(root: Path, sae_id: str, n_tokens: int) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "benchmarks.index_build", "--one", str(root), sae_id, str(n_tokens)],
                          check=True, capture_output=True, text=True)
    out: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return out


def peer(root: Path, sae_id: str, n_latents: int) -> dict[str, Any]:
    """Run SAEDashboard on the same model, SAE and tokens; fail if the residual streams differ."""
    workspace = Workspace(root)
    lm, corpus = _open(workspace)
    chosen = _whole(corpus, TOKENS)
    folder = root / "peer" / sae_id
    write_folder(members(workspace.sae(sae_id), read_config(workspace.sae(sae_id))), folder / "sae")
    np.save(folder / "tokens.npy", chosen.tokens.astype(np.int64))
    runs: list[dict[str, Any]] = []
    for _ in range(PEER_RUNS):
        subprocess.run([environment("saedashboard"), PEERS / "saedashboard_index.py", DEMO_PATH, folder / "sae",
                        folder / "tokens.npy", str(n_latents), folder / "out.json"], check=True, capture_output=True)
        runs.append(json.loads((folder / "out.json").read_text()))
    out = _fastest(runs)
    mine = lm.activations(torch.from_numpy(chosen.tokens[:1].astype(np.int64)), "blocks.2.hook_resid_post").flatten()
    torch.testing.assert_close(torch.tensor(out.pop("residual")), mine, rtol=1e-3, atol=1e-3)
    return out


def _fastest(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return min(runs, key=lambda run: float(run["seconds"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=512, help="number of latents for SAEDashboard")
    parser.add_argument("--large", action="store_true", help="also 65,536 latents over a million tokens")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.one:
        ours(Path(options.one[0]), options.one[1], int(options.one[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare_all(root, options.large)
        first = {sae_id: _fastest([_ours(root, sae_id, TOKENS) for _ in range(RUNS)]) for sae_id in SIZES}
        theirs = {sae_id: peer(root, sae_id, options.latents) for sae_id in SIZES}
        sizes = [_ours(root, SAE_ID, TOKENS * times) for times in (1, 2, 4, 8)]
        large = _ours(root, LARGE_ID, LARGE_TOKENS) if options.large else None
    _report(first, theirs, sizes, large, options.json)


def _report(
    ours: dict[str, Any], theirs: dict[str, Any], sizes: list[dict[str, Any]], large: dict[str, Any] | None,
    as_json: bool,
) -> None:
    # Time against tokens: the additional time per additional token, relative to the first build's time per token.
    slope = (sizes[-1]["seconds"] - sizes[0]["seconds"]) / (sizes[-1]["tokens"] - sizes[0]["tokens"])
    linear = slope * sizes[0]["tokens"] / sizes[0]["seconds"]
    memory = sizes[-1]["peak_GB"] / sizes[0]["peak_GB"]
    if not as_json:
        rows = [[f"SAEDashboard, L = {SIZES[sae_id]:,}", run["latents"], TOKENS, f"{run['seconds']:.1f}",
                 f"{_ms(run):.1f}", "", ""] for sae_id, run in theirs.items()]
        rows += [[f"saescope, L = {run['latents']:,}", run["latents"], run["tokens"], f"{run['seconds']:.1f}",
                  f"{_ms(run):.2f}", f"{run['peak_GB']:.2f}", f"{run['file_MB']:.0f}"]
                 for run in [*ours.values(), *sizes[1:], *([large] if large else [])]]
        print(table(["", "latents", "tokens", "s", "ms / latent", "peak GB", "file MB"], rows))
    ratios = {sae_id: _ms(theirs[sae_id]) / _ms(run) for sae_id, run in ours.items()}
    bars = [
        bar(f"time per latent, SAEDashboard / saescope, L = {SIZES[WIDE_ID]:,}", ratios[WIDE_ID], "≥ 80",
            ratios[WIDE_ID] >= 80),
        bar("time per further token / time per token of the first build", linear, "≤ 1.1 (linear)", linear <= 1.1),
        bar("peak memory at 8 times the tokens / at 1 times", memory, "≤ 1.5 (flat)", memory <= 1.5)]
    if large:
        bars.append(bar("65,536 latents, a million tokens: peak memory (GB)", large["peak_GB"], "≤ 8",
                        large["peak_GB"] <= 8))
    emit("index_build", {"ours": ours, "saedashboard": theirs, "sizes": sizes, "large": large}, bars, as_json)


def _ms(run: dict[str, Any]) -> float:
    """Return the milliseconds for each latent."""
    return 1e3 * float(run["seconds"]) / float(run["latents"])


if __name__ == "__main__":
    main()
