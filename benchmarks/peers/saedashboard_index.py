"""The time that SAEDashboard takes for the data of some latents, on a given model, SAE and tokens.

It runs in a Python with sae-dashboard and without saescope:

    python saedashboard_index.py <model folder> <SAELens folder> <tokens.npy> <latents> <out.json>

The model is a Llama-like one in Hugging Face layout; its weights go into a HookedSAETransformer
unchanged.  The program writes the seconds of `SaeVisRunner.run`, the model's residual stream on the
first context, and the versions, as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

sys.modules["torchvision"] = None  # a dependency that does not fit CPU builds of torch and is not needed

from sae_dashboard.sae_vis_data import SaeVisConfig  # noqa: E402
from sae_dashboard.sae_vis_runner import SaeVisRunner  # noqa: E402
from sae_lens import SAE, HookedSAETransformer  # noqa: E402
from transformer_lens import HookedTransformerConfig  # noqa: E402
from transformer_lens.pretrained.weight_conversions import convert_llama_weights  # noqa: E402
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast  # noqa: E402


def hooked(folder: str) -> HookedSAETransformer:
    """Load the model with its own weights: nothing is folded or centred."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    c = model.config
    d_head = c.hidden_size // c.num_attention_heads
    theta = getattr(c, "rope_theta", None) or c.rope_parameters["rope_theta"]
    config = HookedTransformerConfig(
        n_layers=c.num_hidden_layers, d_model=c.hidden_size, n_ctx=c.max_position_embeddings, d_head=d_head,
        n_heads=c.num_attention_heads, n_key_value_heads=c.num_key_value_heads, d_mlp=c.intermediate_size,
        d_vocab=c.vocab_size, act_fn="silu", eps=c.rms_norm_eps, normalization_type="RMS", gated_mlp=True,
        positional_embedding_type="rotary", rotary_dim=d_head, rotary_adjacent_pairs=False, rotary_base=int(theta),
        final_rms=True, original_architecture="LlamaForCausalLM", device="cpu", dtype=torch.float32)
    out = HookedSAETransformer(config, tokenizer=_tokenizer(Path(folder)))
    weights = convert_llama_weights(model, config)
    weights["unembed.W_U"] = model.lm_head.weight.T.clone()
    out.load_and_process_state_dict(weights, fold_ln=False, center_writing_weights=False, center_unembed=False,
                                    fold_value_biases=False)
    return out


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the model's tokenizer from a copy of its folder that this version of transformers can read."""
    named = json.loads((folder / "tokenizer_config.json").read_text())
    special = {name: named[name] for name in ("bos_token", "eos_token", "pad_token") if named.get(name)}
    copy = tempfile.mkdtemp()
    PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special).save_pretrained(copy)
    return PreTrainedTokenizerFast.from_pretrained(copy)


def main() -> None:
    model_folder, sae_folder, tokens_path, n_latents, out_path = sys.argv[1:6]
    model = hooked(model_folder)
    sae = SAE.load_from_disk(sae_folder)
    tokens = torch.from_numpy(np.load(tokens_path).astype(np.int64))
    hook = sae.cfg.metadata.hook_name
    with torch.no_grad():
        residual = model.run_with_cache(tokens[:1], names_filter=hook)[1][hook][0]
    config = SaeVisConfig(hook_point=hook, features=list(range(int(n_latents))), minibatch_size_features=256,
                          minibatch_size_tokens=64, device="cpu", dtype="float32")
    started = time.perf_counter()
    data = SaeVisRunner(config).run(encoder=sae, model=model, tokens=tokens)
    seconds = time.perf_counter() - started
    Path(out_path).write_text(json.dumps({
        "seconds": seconds, "latents": len(data.feature_data_dict), "tokens": tokens.numel(),
        "residual": residual.flatten().tolist(),
        "versions": {name: version(name) for name in ("sae-dashboard", "sae-lens", "transformer-lens", "torch")}}))


if __name__ == "__main__":
    main()
