"""Translation of other libraries' names of models and sites.  No torch."""

from __future__ import annotations

import re

from sae.errors import UserError
from sae.lm.sites import parse_site

CREATOR = "saescope"  # the author in Neuronpedia's files where no person is known
# End of a module path -> the hook points of its (output, input).
_MODULES = {
    "": ("hook_resid_post", "hook_resid_pre"),
    "mlp": ("hook_mlp_out", "mlp.hook_in"), "mlp.hook_out": ("hook_mlp_out", ""),
    "attn.hook_out": ("hook_attn_out", ""),
    "attn": ("hook_attn_out", ""), "self_attn": ("hook_attn_out", ""), "attention": ("hook_attn_out", ""),
    "self_attn.o_proj": ("", "attn.hook_z"), "attn.c_proj": ("", "attn.hook_z"), "attention.dense": ("", "attn.hook_z"),
    "mlp.act": ("mlp.hook_post", ""), "mlp.down_proj": ("", "mlp.hook_post"), "mlp.c_proj": ("", "mlp.hook_post"),
    "post_feedforward_layernorm": ("hook_mlp_out", ""), "pre_feedforward_layernorm": ("mlp.hook_in", ""),
    "post_attention_layernorm": ("", "hook_resid_mid"),
}
_MODULE = re.compile(r"(?:[a-z_]+\.)*?(?:layers|h|blocks|block)\.(\d+)((?:\.[a-z_0-9]+)*)")
# Names of dictionary_learning: resid_post_layer_3, attn_layer_3, mlp_layer_3
_BY_KIND = re.compile(r"(resid_post|resid_pre|resid|attention|attn|mlp)(?:_out)?_(?:layer_)?(\d+)")
_KINDS = {"resid_post": "hook_resid_post", "resid": "hook_resid_post", "resid_pre": "hook_resid_pre",
          "attention": "hook_attn_out", "attn": "hook_attn_out", "mlp": "hook_mlp_out"}
_MODELS = {
    "gpt2-small": "openai-community/gpt2", "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large", "gpt2-xl": "openai-community/gpt2-xl",
    "mistral-7b": "mistralai/Mistral-7B-v0.1", "tiny-stories-1L-21M": "roneneldan/TinyStories-1Layer-21M"}
_OWNERS = (("pythia-", "EleutherAI"), ("gemma-", "google"), ("Llama-", "meta-llama"), ("Meta-Llama-", "meta-llama"),
           ("Qwen", "Qwen"))


def model_name(name: str) -> str:
    """Return the hub name or path that a model's name in a file stands for; an unknown name is returned as it is."""
    name = name.strip()
    if "/" in name or not name:
        return name
    owner = next((owner for start, owner in _OWNERS if name.startswith(start)), "")
    return _MODELS.get(name) or (f"{owner}/{name}" if owner else name)


def site(name: str, *, reads: bool = False) -> str:
    """Return the hook point that a file names, or "" if the name is unknown.

    The name is a hook point, a module's path, or a dictionary_learning submodule.  A path means the module's
    output, or its input if `reads` is set; a suffix `.input` or `.output` overrides this.
    """
    name = (name or "").strip()
    try:
        parse_site(name)
        return name
    except UserError:
        pass
    for end, is_input in ((".output", False), (".input", True)):
        if name.endswith(end):
            name, reads = name.removesuffix(end), is_input
    if match := _MODULE.fullmatch(name):
        kind = _MODULES.get(match[2].lstrip("."), ("", ""))[reads]
        return f"blocks.{match[1]}.{kind}" if kind else ""
    if match := _BY_KIND.fullmatch(name):
        return f"blocks.{match[2]}.{_KINDS[match[1]]}"
    return ""
