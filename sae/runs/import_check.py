"""The check of an imported SAE on real activations: FVU, L0, mean activation.

A transposed, wrongly centred or wrongly normalised SAE reconstructs nothing: its FVU is near or
above 1.  In that case the check tries the other ways to interpret the same weights, so that the
error message can name the right one.

Shapes: N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.data.corpus import Corpus
from sae.errors import UserError
from sae.formats.foreign import Foreign
from sae.formats.readers.registry import convert
from sae.lm.bridge import LanguageModel
from sae.lm.sites import EMBED, parse_site, site_hook, split_head

MAX_FVU = 0.9  # above this the SAE explains next to nothing
_PASS_TOKENS = 4096


@dataclass(frozen=True)
class Sample:
    """Activations of the same tokens at the SAE's input (`x_ND`) and output (`target_ND`) site."""

    x_ND: Tensor
    target_ND: Tensor


def sample(
    lm: LanguageModel, corpus: Corpus, hook: str, out_hook: str, n_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> Sample:
    """Return the activations of up to `n_tokens` text tokens of the corpus, without BOS."""
    hooks, parts, done = [hook, out_hook or hook], [], 0
    contexts = corpus.contexts("all", seed=0)
    per_pass = max(1, _PASS_TOKENS // corpus.context_length)
    for start in range(0, len(contexts), per_pass):
        some = sorted(contexts[start : start + per_pass])
        tokens_PS = torch.from_numpy(corpus.tokens[some].astype("int64")).to(lm.device)
        length_P = torch.from_numpy(corpus.length[some].astype("int64"))
        positions_S = torch.arange(tokens_PS.shape[1])
        counted_PS = ((positions_S[None] < length_P[:, None]) & (positions_S > 0)).to(lm.device)
        parts.append([x_PSD[counted_PS] for x_PSD in lm.activations_at(tokens_PS, hooks)])
        done += int(counted_PS.sum())
        if progress:
            progress(min(done, n_tokens), n_tokens)
        if done >= n_tokens:
            break
    x_ND, target_ND = (torch.cat([part[i] for part in parts])[:n_tokens] for i in (0, 1))
    return Sample(x_ND, target_ND)


@torch.no_grad()
def measure(sae: Autoencoder, sample: Sample) -> dict[str, Any]:
    """Return `fvu`, `l0`, `l0_std` (over tokens), `mean_activation` (over firing latents) and `tokens`.

    Raises UserError (field `hook` or `out_hook`) if the SAE's widths differ from the widths of its sites.
    """
    d_in = sae.W_enc_LD.shape[1]
    for hook, found, width in ((sae.hook, sample.x_ND.shape[1], d_in),
                               (sae.out_hook, sample.target_ND.shape[1], sae.d_model)):
        if found != width:
            field = "hook" if hook == sae.hook else "out_hook"
            raise UserError(f"{field}: {hook} of {sae.config['model']['name']} has width {found}, but the SAE has "
                            f"width {width}; it belongs to another model or another site", field)
    error = total = fired = n_fired = square = 0.0
    for x_ND, target_ND in zip(sae.pieces(sample.x_ND), sae.pieces(sample.target_ND), strict=True):
        codes = sae.codes(x_ND)
        error += float((target_ND - sae.decode(codes, x_ND)).cpu().double().square().sum())
        l0_N = codes.l0_B().cpu().double()
        total, square = total + float(l0_N.sum()), square + float(l0_N.square().sum())
        fired, n_fired = fired + float(codes.value_N.cpu().double().sum()), n_fired + len(codes.value_N)
    n = len(sample.x_ND)
    target = sample.target_ND.cpu().double()
    variance = float((target - target.mean(dim=0)).square().sum())
    return {"fvu": error / variance if variance else float("nan"), "l0": total / n,
            "l0_std": max(0.0, square / n - (total / n) ** 2) ** 0.5,
            "mean_activation": fired / max(n_fired, 1), "tokens": n}


def reconstructs(measured: dict[str, Any]) -> bool:
    """Return whether the measured FVU is below MAX_FVU."""
    return bool(measured["fvu"] < MAX_FVU)


def other_readings(foreign: Foreign, at: Sample) -> Iterator[tuple[str, Foreign]]:
    """Yield (command-line option, the SAE interpreted with that option) for each way to misread a file."""
    w = foreign.weights
    D = len(w.b_dec_D)
    if w.W_enc_LD.shape[1] == D and not w.transcoder:
        yield f"--subtract-b-dec {'no' if w.centred else 'yes'}", _but(foreign, centred=not w.centred)
    if not w.transcoder:
        for kind in ("none", "layer_norm_std", "constant_norm", "centre"):
            if kind != w.normalize:
                yield f"--normalize {kind}", _but(foreign, normalize=kind)
    if w.whitening is None:
        usual = w.W_enc_LD.shape[1] ** 0.5 / float(at.x_ND.norm(dim=1).mean())
        for scale in {1.0, usual} - {w.input_scale}:
            yield f"--input-scale {scale:.4g}", _but(foreign, input_scale=scale)
    if w.W_dec_LD.shape[0] == w.W_dec_LD.shape[1]:
        yield "W_dec transposed", _but(foreign, W_dec_LD=w.W_dec_LD.T.contiguous())
        yield "W_enc transposed", _but(foreign, W_enc_LD=w.W_enc_LD.T.contiguous())


def other_layers(foreign: Foreign, n_layers: int) -> Iterator[tuple[str, Foreign]]:
    """Yield (command-line option, the SAE at that hook) for the same site one block earlier and one later."""
    layer, kind = parse_site(foreign.hook)
    for other in (layer - 1, layer + 1):
        if 0 <= other < n_layers and not foreign.out_hook and kind != EMBED:
            hook = site_hook(other, kind, split_head(foreign.hook)[1])
            yield f"--hook {hook}", replace(foreign, hook=hook)


def _but(foreign: Foreign, **changes: Any) -> Foreign:
    return replace(foreign, weights=replace(foreign.weights, **changes))


def table(foreign: Foreign, at: Sample, lm: LanguageModel, corpus: Corpus) -> list[tuple[float, str]]:
    """Return (FVU, option) for every other interpretation of the weights, best first."""
    device, rows = at.x_ND.device, []
    for option, other in other_readings(foreign, at):
        rows.append((measure(convert(other).to(device), at)["fvu"], option))
    for option, other in other_layers(foreign, lm.info.n_layers):
        there = sample(lm, corpus, other.hook, "", len(at.x_ND))
        rows.append((measure(convert(other).to(device), there)["fvu"], option))
    # FVUs that agree to two digits count as equal, so that the more usual interpretation comes first.
    return sorted((row for row in rows if row[0] == row[0]), key=lambda row: round(row[0], 2))
