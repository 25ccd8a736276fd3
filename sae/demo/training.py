"""Training of the embedded language model from scratch.  The command is `python -m sae.demo.pretrain`.

The model is a small Llama, trained on Python source.  Muon (as in torch.optim; Jordan et al. 2024) updates the
layers' matrices, AdamW everything else.  Every context begins with BOS, as everywhere in saescope.

The working folder (`pretrain/` in the workspace) holds the tokenizer, the token streams, the last
checkpoint and the curve, and at the end `model/`, a folder in Hugging Face layout.  After a kill the same
command resumes and gives the same weights, because a step's batch depends only on the seed and the step's number.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from sae.demo.text import Report, Roots, Streams, prepare_text
from sae.errors import UserError
from sae.workspace.checkpoint import load_checkpoint, save_checkpoint
from sae.workspace.files import write_json

BOS = 0

@dataclass(frozen=True)
class Recipe:
    """The settings that determine the weights.  The defaults are the shipped model's."""

    layers: int = 4
    d_model: int = 256
    heads: int = 4
    d_mlp: int = 704
    vocab: int = 8192
    context: int = 256
    steps: int = 2400
    batch: int = 32
    stdlib_share: float = 0.4  # of each batch's contexts; the rest is packages
    tokenizer_files: int = 2500
    lr_muon: float = 0.02
    lr_adam: float = 2e-3
    weight_decay: float = 0.05  # Muon's; AdamW has none
    warmup: int = 60
    decay_from: float = 0.6  # share of the steps after which the learning rate falls
    lr_floor: float = 0.02  # learning rate of the last step, as a share of the peak
    clip: float = 1.0
    bf16: bool = True
    seed: int = 0

    def check(self) -> None:
        """Raise UserError if the sizes contradict each other or the vocabulary does not fit into 16 bits."""
        if self.d_model % self.heads or (self.d_model // self.heads) % 2:
            raise UserError(f"heads: d_model {self.d_model} cannot be divided into {self.heads} heads of even size",
                            "heads")
        if not 257 <= self.vocab <= 1 << 16:
            raise UserError(f"vocab: {self.vocab} is not between 257 and 65,536", "vocab")
        if min(self.layers, self.steps, self.batch) < 1 or self.context < 8:
            raise UserError("layers, steps and batch must be at least 1, and context at least 8", "steps")
        if not hasattr(torch.optim, "Muon"):
            raise UserError(f"training needs torch 2.9 or newer for Muon; this is {torch.__version__}")


def new_model(recipe: Recipe) -> LlamaForCausalLM:
    """Return the untrained model in float32; its weights depend only on the recipe's sizes and seed."""
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=recipe.vocab, hidden_size=recipe.d_model, intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads, num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context, tie_word_embeddings=True, bos_token_id=BOS, eos_token_id=BOS,
        attn_implementation="sdpa"))
    return model.float()


def make_optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices and AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2]
    others = [p for name, p in model.named_parameters() if not (".layers." in name and p.ndim == 2)]
    return [
        torch.optim.Muon(matrices, lr=recipe.lr_muon, momentum=0.95, weight_decay=recipe.weight_decay, ns_steps=5),
        torch.optim.AdamW(others, lr=recipe.lr_adam, betas=(0.9, 0.95), weight_decay=0.0)]


def lr_factor(step: int, recipe: Recipe) -> float:
    """Return a step's learning rate as a share of the peak: a rise, a plateau, a linear fall to `lr_floor`."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    start = recipe.decay_from * recipe.steps
    if step < start:
        return 1.0
    return 1.0 - (1.0 - recipe.lr_floor) * (step + 1 - start) / (recipe.steps - start)


def batch_of(step: int, streams: Streams, recipe: Recipe) -> Tensor:
    """Return the step's contexts [P, S]: BOS, then S - 1 tokens from a random position of a stream."""
    rng = np.random.default_rng([recipe.seed, step])
    n_stdlib = round(recipe.stdlib_share * recipe.batch)
    rows_PS = np.full((recipe.batch, recipe.context), BOS, dtype=np.int64)
    for i in range(recipe.batch):
        stream = streams.stdlib if i < n_stdlib else streams.packages
        start = int(rng.integers(0, max(1, len(stream) - recipe.context + 2)))
        piece = stream[start : start + recipe.context - 1]
        rows_PS[i, 1 : 1 + len(piece)] = piece
    return torch.from_numpy(rows_PS)


def train_step(
    model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], tokens_PS: Tensor, step: int, recipe: Recipe
) -> float:
    """Do one training step and return the loss before it, in nats per token."""
    for optimizer, peak in zip(optimizers, (recipe.lr_muon, recipe.lr_adam), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * lr_factor(step, recipe)
        optimizer.zero_grad(set_to_none=True)
    with torch.autocast(tokens_PS.device.type, dtype=torch.bfloat16, enabled=recipe.bf16):
        logits_PSV = model(tokens_PS[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits_PSV.float().flatten(0, 1), tokens_PS[:, 1:].flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())


def pretrain(
    recipe: Recipe,
    folder: Path,
    roots: Roots | None = None,
    device: torch.device | str = "cpu",
    *,
    checkpoint_every: int = 100,
    minutes: float = math.inf,
    report: Report = lambda what, done, total: None,
) -> LlamaForCausalLM | None:
    """Train in `folder` from its checkpoint, if any; return the model, or None if `minutes` ran out first.

    Raises UserError if the folder belongs to a training with another recipe.
    """
    recipe.check()
    _claim(folder, recipe)
    streams = prepare_text(
        folder, roots or Roots.of_this_python(), recipe.vocab, recipe.tokenizer_files, recipe.seed, report)
    model = new_model(recipe).to(device).train()
    optimizers = make_optimizers(model, recipe)
    checkpoint = folder / "checkpoint.pt"
    state = load_checkpoint(checkpoint, device)
    first = 0
    if state is not None:
        first = int(state["step"])
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    deadline = time.monotonic() + 60 * minutes
    with open(folder / "progress.jsonl", "a", encoding="utf-8") as curve:
        for step in range(first, recipe.steps):
            loss = train_step(model, optimizers, batch_of(step, streams, recipe).to(device), step, recipe)
            late = time.monotonic() > deadline
            if (step + 1) % checkpoint_every == 0 or step + 1 == recipe.steps or late:
                save_checkpoint(checkpoint, {
                    "step": step + 1, "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]})
                curve.write(json.dumps({"step": step + 1, "loss": loss, "time": time.time()}) + "\n")
                curve.flush()
            report(f"training, loss {loss:.3f}", step + 1, recipe.steps)
            if late and step + 1 < recipe.steps:
                return None
    return model.eval()


def export(model: LlamaForCausalLM, folder: Path, recipe: Recipe) -> Path:
    """Write `folder/model`: float16 weights, config and tokenizer in Hugging Face layout."""
    target, temporary = folder / "model", folder / "model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(temporary)
    shutil.copyfile(folder / "tokenizer.json", temporary / "tokenizer.json")
    write_json(temporary / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>", "model_max_length": recipe.context})
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return target


def _claim(folder: Path, recipe: Recipe) -> None:
    """Write the recipe to the folder, or raise UserError if the folder belongs to another recipe."""
    path, wanted = folder / "recipe.json", asdict(recipe)
    if not path.exists():
        write_json(path, wanted)
    there: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if different := [name for name, value in wanted.items() if there.get(name) != value]:
        name = different[0]
        raise UserError(
            f"{name}: {folder} holds a run with {name} {there.get(name)}, not {wanted[name]}; "
            "give the same settings, or another folder", name)
