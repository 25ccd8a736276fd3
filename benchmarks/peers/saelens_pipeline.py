"""SAELens' own runner on a random GPT-2-shaped model, in the environment of `saelens.txt`.

    saelens_pipeline.py '{"tokens": x.npy, "model": folder, "class": ..., "hook": ..., ...}'

Prints one JSON object: seconds from the start of this program to its imports, to the model, and to the saved SAE.
"""

import json
import sys
import time

STARTED = time.perf_counter()

import numpy as np  # noqa: E402  (the clock starts before the imports)
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from sae_lens import (  # noqa: E402
    BatchTopKTrainingSAEConfig,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
)
from sae_lens.load_model import load_model  # noqa: E402
from transformer_lens import HookedTransformer, HookedTransformerConfig  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402


def make_model(asked: dict):
    """Return the model: Hugging Face's, or SAELens' default class with the same shape."""
    if asked["class"] == "AutoModelForCausalLM":
        return load_model(asked["class"], asked["model"], device="cpu", hook_names=[asked["hook"]])
    config = HookedTransformerConfig(
        n_layers=12, d_model=768, n_ctx=1024, d_head=64, n_heads=12, d_mlp=3072, d_vocab=50257, act_fn="gelu_new",
        normalization_type="LN", device="cpu", seed=0)
    return HookedTransformer(config, tokenizer=AutoTokenizer.from_pretrained(asked["model"]))


def main() -> None:
    asked = json.loads(sys.argv[1])
    imported = time.perf_counter() - STARTED
    model = make_model(asked)
    loaded = time.perf_counter() - STARTED
    config = LanguageModelSAERunnerConfig(
        sae=BatchTopKTrainingSAEConfig(d_in=768, d_sae=asked["n_latents"], k=asked["k"], apply_b_dec_to_input=True,
                                       normalize_activations="layer_norm", device="cpu"),
        model_name=asked["model"], model_class_name=asked["class"], hook_name=asked["hook"], streaming=False,
        context_size=asked["context"], training_tokens=asked["n_tokens"], train_batch_size_tokens=asked["batch"],
        store_batch_size_prompts=16, n_batches_in_buffer=asked["buffer"] // asked["context"],
        lr=3e-4, device="cpu", autocast=asked["mixed"], autocast_lm=asked["mixed"], n_eval_batches=0, n_checkpoints=0,
        save_final_checkpoint=False, output_path=asked["out"], checkpoint_path=None,
        logger=LoggingConfig(log_to_wandb=False))
    tokens = Dataset.from_dict({"input_ids": np.load(asked["tokens"]).tolist()})
    LanguageModelSAETrainingRunner(config, override_dataset=tokens, override_model=model).run()
    print(json.dumps({"imported": imported, "loaded": loaded, "seconds": time.perf_counter() - STARTED,
                      "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
