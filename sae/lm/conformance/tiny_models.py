"""Tiny random models of every causal architecture that transformers and transformer_lens both know.

Configurations are made without a list of families: every size that a config class has gets a small value.
Gains, biases and matrices are random and far from their neutral values, so that a gain, a bias or a
multiplier that is left out shows in the numbers.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sae.lm.libraries import SUPPORTED_ARCHITECTURES

WIDTH, LAYERS, HEADS, CONTEXT, VOCABULARY = 32, 4, 4, 128, 300
WINDOW = 8

# Sizes by the names that config classes use.  A class gets those that it knows.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_embd": WIDTH, "d_model": WIDTH, "word_embed_proj_dim": WIDTH,
    "attention_hidden_size": WIDTH, "lru_width": WIDTH, "embedding_size": WIDTH,
    "num_hidden_layers": LAYERS, "n_layer": LAYERS, "n_layers": LAYERS, "num_layers": LAYERS,
    "num_attention_heads": HEADS, "n_head": HEADS, "n_heads": HEADS, "num_heads": HEADS, "attention_heads": HEADS,
    "num_key_value_heads": 2, "num_kv_heads": 2, "head_dim": 8, "v_head_dim": 8, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4, "rotary_dim": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "global_head_dim": 8,
    "attention_head_dim": 8, "kv_channels": 8, "num_global_key_value_heads": 2, "swa_head_dim": 8,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "ffn_hidden_size": 48, "block_ff_dim": 48,
    "shared_intermediate_size": 48, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24,
    "intermediate_size_mlp": 48, "expert_ffn_hidden_size": 24, "moe_shared_expert_intermediate_size": 24,
    "dense_intermediate_size": 48, "share_expert_dim": 24,
    "max_position_embeddings": CONTEXT, "n_positions": CONTEXT, "n_ctx": CONTEXT, "max_seq_len": CONTEXT,
    "seq_length": CONTEXT, "context_length": CONTEXT, "original_max_position_embeddings": CONTEXT,
    "sliding_window": WINDOW, "window_size": WINDOW, "attention_window_size": WINDOW, "local_attention": WINDOW,
    "attention_chunk_size": WINDOW,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "moe_k": 2, "top_k_experts": 2, "moe_topk": 2, "n_group": 1, "topk_group": 1,
    "num_expert_group": 1, "moe_num_shared_experts": 1, "num_shared_experts": 1, "first_k_dense_replace": 1,
    "num_dense_layers": 1, "first_k_dense_layers": 1, "moe_layer_start_index": 1,
    "state_size": 8, "mamba_d_state": 8, "ssm_state_size": 8, "time_step_rank": 4, "mamba_dt_rank": 4,
    "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_head_dim": 16, "mamba_num_heads": 4,
    "n_mamba_heads": 4, "mamba_headdim": 16, "mamba_n_groups": 1, "n_groups": 1, "mamba_ngroups": 1,
    "mamba_chunk_size": 8, "chunk_size": 8,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "laurel_rank": 8,
    "num_kv_shared_layers": 0, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "mamba_intermediate_size": 64,
    "image_size": 32, "patch_size": 8, "model_patch_size": 8, "mm_tokens_per_image": 4, "pooling_kernel_size": 2,
    "residual_multiplier": 0.4, "logits_scaling": 3.0, "embedding_multiplier": 2.0, "logit_scale": 0.3,
    "lm_head_multiplier": 0.5,
    "index_n_heads": 2, "index_head_dim": 8, "index_topk": 64, "router_dim": 16,
}
# Pieces that a size alone does not settle.
_MAMBA_AND_ATTENTION = ["mamba", "attention", "mamba", "attention"]
_SPECIAL: dict[str, dict[str, Any]] = {
    "gemma2": {"final_logit_softcapping": 4.0, "attn_logit_softcapping": 2.0},
    "bamba": {"attn_layer_indices": [1, 3]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "granitemoehybrid": {"layer_types": _MAMBA_AND_ATTENTION},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "falcon_h1": {"mamba_n_heads": 4, "mamba_d_head": 8},
    "zamba2": {"layer_types": ["mamba", "hybrid", "mamba", "hybrid"], "hybrid_layer_ids": [1, 3]},
}


def causal_architectures() -> list[str]:
    """Return the architectures that write text and that both libraries know, by name."""
    listed = {name for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
              for name in ([names] if isinstance(names, str) else names)}
    known = set(dir(transformers))  # hasattr would import each of them
    return sorted(name for name in SUPPORTED_ARCHITECTURES
                  if (name in listed or name.endswith("ForCausalLM")) and name in known)


def tiny_config(architecture: str) -> Any:
    """Return a small configuration of an architecture."""
    config_class = getattr(transformers, architecture).config_class
    return _small(config_class, _SPECIAL.get(config_class.model_type, {}))


def _small(config_class: Any, changes: Mapping[str, Any]) -> Any:
    known = _fields(config_class)
    values = {name: value for name, value in _SIZES.items() if name in known}
    if "kv_lora_rank" in known:  # keys and values of all heads come from one latent vector
        values["num_key_value_heads"] = HEADS
    for name, inner in getattr(config_class, "sub_configs", {}).items():
        if inner is not transformers.AutoConfig:
            values[name] = _small(inner, {}).to_dict()
    return config_class(**{**values, **changes})


def _fields(config_class: Any) -> set[str]:
    names = set(inspect.signature(config_class.__init__).parameters)
    if dataclasses.is_dataclass(config_class):
        names |= {field.name for field in dataclasses.fields(config_class)}
    return names


def write_tiny_model(architecture: str, folder: Path, config: Any = None) -> None:
    """Write a random model of the architecture and a tokenizer of bytes into `folder`."""
    config = config or tiny_config(architecture)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, architecture)(config).float().eval()
        randomise(model)
        model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def randomise(model: torch.nn.Module) -> None:
    """Move gains and biases away from 1 and 0, and matrices far enough from 0 for every part to matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                fan = parameter.shape[-1] if parameter.shape[-1] > 1 else parameter.shape[0]
                if parameter.std() > 0:
                    parameter.mul_(fan**-0.5 / parameter.std())
                else:
                    parameter.normal_(0, fan**-0.5)
            elif "A_log" in name or name.endswith((".D", "dt_bias")):
                continue
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))


def byte_tokenizer() -> Any:
    """Return a tokenizer with one token a byte, and BOS, EOS and padding of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", "<pad>", *alphabet]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
