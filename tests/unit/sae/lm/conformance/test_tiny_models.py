"""Tiny random models: small, complete, and far from the neutral values that would hide a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from sae.lm.conformance.tiny_models import (
    CONTEXT,
    LAYERS,
    VOCABULARY,
    WIDTH,
    WINDOW,
    byte_tokenizer,
    causal_architectures,
    randomise,
    tiny_config,
    write_tiny_model,
)


def test_the_architectures_that_write_text_are_listed_by_name() -> None:
    found = causal_architectures()
    assert found == sorted(set(found))
    assert {"GPT2LMHeadModel", "LlamaForCausalLM", "MambaForCausalLM"} <= set(found)
    assert not {"T5ForConditionalGeneration", "BertForMaskedLM"} & set(found)


@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", "LlamaForCausalLM", "OPTForCausalLM", "BloomForCausalLM"])
def test_sizes_are_small_whatever_a_config_calls_them(architecture: str) -> None:
    config = tiny_config(architecture)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (WIDTH, LAYERS, VOCABULARY)


def test_what_a_size_does_not_settle_is_set_by_the_kind_of_model() -> None:
    assert tiny_config("MistralForCausalLM").sliding_window == WINDOW
    gemma = tiny_config("Gemma2ForCausalLM")
    assert (gemma.final_logit_softcapping, gemma.attn_logit_softcapping) == (4.0, 2.0)
    assert tiny_config("LlamaForCausalLM").max_position_embeddings == CONTEXT
    deepseek = tiny_config("DeepseekV3ForCausalLM")
    assert deepseek.num_key_value_heads == deepseek.num_attention_heads


def test_gains_biases_and_matrices_are_far_from_their_neutral_values() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.LayerNorm(64), torch.nn.Linear(64, 128), torch.nn.Embedding(8, 64))
    model[2].weight.data.zero_()
    randomise(model)
    assert float((model[0].weight - 1).detach().std()) == pytest.approx(0.3, rel=0.3)
    assert float(model[0].bias.detach().std()) == pytest.approx(0.3, rel=0.3)
    for matrix in (model[1].weight, model[2].weight):
        assert float(matrix.detach().std()) == pytest.approx(64**-0.5, rel=0.1)


def test_a_model_is_written_with_its_tokenizer_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in "ab":
        write_tiny_model("GPT2LMHeadModel", tmp_path / name)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert one == two
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    assert tokenizer.decode(tokenizer("é x", add_special_tokens=False)["input_ids"]) == "é x"
    config = tiny_config("GPT2LMHeadModel")
    config.n_layer = 1
    write_tiny_model("GPT2LMHeadModel", tmp_path / "c", config)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "c").n_layer == 1


def test_the_tokenizer_has_one_token_a_byte() -> None:
    tokenizer = byte_tokenizer()
    assert len(tokenizer) == 3 + 256 <= VOCABULARY
    assert len(tokenizer("é🙂", add_special_tokens=False)["input_ids"]) == 2 + 4
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id] == [0, 1, 2]
