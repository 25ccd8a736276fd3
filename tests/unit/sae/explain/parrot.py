"""A small instruct model in the layout of Hugging Face that gives one answer to every chat.

It has the embedded model's tokenizer and one layer that does nothing, so the next token depends on the last one alone,
and the unembedding leads from the end of every prompt through the tokens of the answer to the end token.
"""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from sae.lm.model_info import DEMO_PATH

D, HIDDEN, V, END = 128, 16, 8192, 0
LAST = "\nanswer:"  # the end of every prompt


def write_parrot(folder: Path, answer: str) -> None:
    """Write the model.  No token of the answer may occur twice."""
    folder.mkdir()
    shutil.copy(DEMO_PATH / "tokenizer.json", folder)
    settings = json.loads((DEMO_PATH / "tokenizer_config.json").read_text())
    settings["chat_template"] = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}" + LAST
        + "{% endif %}")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 8192}))
    config = json.loads((DEMO_PATH / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {
        "hidden_size": D, "head_dim": D // 4, "intermediate_size": HIDDEN, "num_hidden_layers": 1, "dtype": "float32",
        "max_position_embeddings": 8192, "tie_word_embeddings": False}))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [tokenizer.encode(LAST).ids[-1], *tokenizer.encode(answer).ids, END]
    assert len(set(ids)) == len(ids), "a token leads to one other token"
    embed_VD = torch.randn(V, D, generator=torch.Generator().manual_seed(0))
    unembed_VD = torch.zeros(V, D)
    for here, following in pairwise(ids):
        unembed_VD[following] = embed_VD[here]
    layer = "model.layers.0."
    shapes = {"self_attn.q_proj": (D, D), "self_attn.k_proj": (D, D), "self_attn.v_proj": (D, D),
              "self_attn.o_proj": (D, D), "mlp.gate_proj": (HIDDEN, D), "mlp.up_proj": (HIDDEN, D),
              "mlp.down_proj": (D, HIDDEN)}
    save_file({
        "model.embed_tokens.weight": embed_VD, "lm_head.weight": unembed_VD, "model.norm.weight": torch.ones(D),
        f"{layer}input_layernorm.weight": torch.ones(D), f"{layer}post_attention_layernorm.weight": torch.ones(D),
        **{f"{layer}{name}.weight": torch.zeros(shape) for name, shape in shapes.items()},
    }, str(folder / "model.safetensors"), {"format": "pt"})
