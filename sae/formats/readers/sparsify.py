"""Reader of EleutherAI sparsify folders: `cfg.json` + `sae.safetensors` (checked at eai-sparsify 1.3.3).

The folder's name is the hookpoint, a module path under the base model.  `k` in the config is the
current value, which may be annealed.  Multi-TopK only changes the loss; inference keeps k latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae.formats.detect import Found
from sae.formats.foreign import Foreign, Weights
from sae.formats.foreign_names import model_name
from sae.formats.untrusted_tensors import read_json, read_tensors, refuse


def read(found: Found, given: Mapping[str, Any]) -> Foreign:
    """Read the SAE or transcoder in a sparsify folder.  Raises UserError."""
    assert found.config is not None
    config, tensors = read_json(found.config), read_tensors(found.weights)
    activation, k = str(config.get("activation", "topk")), config.get("k")
    if activation == "groupmax":
        refuse(found.config, "activation groupmax, which keeps one latent of each group, cannot be expressed here")
    if activation != "topk" or config.get("signed"):
        rule = "signed latents" if config.get("signed") else f"activation {activation[:40]!r}"
        refuse(found.config, f"{rule} cannot be expressed here; topk can")
    L, d_in = tensors.matrix("encoder.weight")
    if config.get("d_in", d_in) != d_in or (config.get("num_latents") or L) != L:
        refuse(found.config, f"d_in {config.get('d_in')!r} and num_latents {config.get('num_latents')!r} do not fit "
                             f"encoder.weight, which is {(L, d_in)}: the file belongs to another SAE, or is transposed")
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= L:
        refuse(found.config, f"k is {k!r}, but should be from 1 to {L}")
    transcode, D = bool(config.get("transcode")), tensors.matrix("W_dec")[1]
    weights = Weights(
        W_enc_LD=tensors.take("encoder.weight", (L, d_in)), b_enc_L=tensors.take("encoder.bias", (L,)),
        W_dec_LD=tensors.take("W_dec", (L, D)), b_dec_D=tensors.take("b_dec", (D,)), architecture="topk", k=k,
        centred=not transcode, transcoder=transcode)
    if "W_skip" in tensors:
        weights.W_skip_DD = tensors.take("W_skip", (D, d_in)).T.contiguous()
        if not transcode:
            refuse(found.config, "is an SAE with a skip connection, which only transcoders can have here")
    run = found.folder.parent / "config.json"
    training = read_json(run) if run.is_file() else {}
    name = found.folder.name
    out = Foreign(
        format="sparsify", weights=weights, model=model_name(str(training.get("model") or "")),
        bos=False,
        context_length=training["ctx_len"] if isinstance(training.get("ctx_len"), int) else 0,
        trained_as="topk", claims={"l0": float(k)}, dtype=tensors.dtype, details={"hookpoint": name})
    out.name_sites(name, name if transcode else "", module_reads=transcode)
    out.notes.append("sparsify joins documents without a BOS token")
    if config.get("multi_topk"):
        out.notes.append("trained with the Multi-TopK loss; inference keeps k latents")
    return out
