"""Reading row by row computes the same as the bridge, and a row's bits do not depend on the other rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.model_info import DEMO_PATH
from sae.lm.row_model import ROWS, RowModel, Rows, capacity_of
from sae.lm.sites import KINDS

SIZES = {"vocab_size": 8192, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0}
CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=8192, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0),
    "llama-gqa": lambda: transformers.LlamaConfig(**SIZES, intermediate_size=48, num_key_value_heads=2),
    "mistral-window": lambda: transformers.MistralConfig(
        **SIZES, intermediate_size=48, num_key_value_heads=2, sliding_window=5),
    "neox": lambda: transformers.GPTNeoXConfig(**SIZES, intermediate_size=48),
    "gemma2": lambda: transformers.Gemma2Config(
        **SIZES, intermediate_size=48, num_key_value_heads=2, head_dim=8, sliding_window=5, attn_logit_softcapping=5.0),
}
TOKENS = [0, 17, 300, 42, 9, 9, 4000, 77, 12, 5, 6, 7, 8]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RowModel]:
    """Return random models of several architectures, with the embedded model's tokenizer."""
    made: dict[str, RowModel] = {}

    def get(name: str) -> RowModel:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            torch.manual_seed(3)
            model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]())
            for parameter in model.parameters():  # far enough from 0 for attention to matter
                parameter.data.mul_(4 if parameter.dim() > 1 else 1)
            model.save_pretrained(folder)
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(DEMO_PATH / file, folder)
            made[name] = RowModel(LanguageModel.load(str(folder), "cpu"))
        return made[name]

    return get


def test_two_models_in_two_threads_do_not_mix(models: Callable[[str], RowModel]) -> None:
    names = ["gpt2", "llama-gqa"]
    alone = [models(name).read(TOKENS, whole=True) for name in names]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            found = list(pool.map(lambda name: models(name).read(TOKENS, whole=True), names))
            assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))


@pytest.fixture(scope="module")
def demo(demo_lm: LanguageModel) -> RowModel:
    return RowModel(demo_lm)


def stepwise(model: RowModel, tokens: list[int], start: int, row: int = 3, edits: Any = None) -> Tensor:
    """Return the logits [S, V] of a prompt of `start` tokens followed by the others one by one."""
    rows = Rows(capacity_of(len(tokens)))
    parts = [model.read(tokens[:start], edits, rows, row, whole=True)]
    for n in range(start, len(tokens)):
        order = model.order([row])
        parts.append(model.step(rows, order, {row: tokens[n]}, {row: n}, edits)[order.index(row)][None])
    return torch.cat(parts)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_logits_are_the_bridges(models: Callable[[str], RowModel], name: str) -> None:
    model = models(name)
    expected = model.lm.logits(torch.tensor([TOKENS]))[0]
    tolerance = 2e-5 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(model.read(TOKENS, whole=True), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(stepwise(model, TOKENS, 4), expected, rtol=0, atol=tolerance)
    many = model.read_many([TOKENS, TOKENS[::-1]])
    torch.testing.assert_close(many[0], expected[-1], rtol=0, atol=tolerance)


def change(x: Tensor) -> Tensor:
    return x * 0.7 + 0.1


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox", "gemma2"])
def test_every_site_is_read_and_changed_as_on_the_bridge(
    models: Callable[[str], RowModel], name: str, kind: str
) -> None:
    model, hook = models(name), f"blocks.1.{kind}"
    tokens = torch.tensor([TOKENS])
    try:
        expected, changed = model.lm.activations(tokens, hook)[0], model.lm.logits(tokens, {hook: change})[0]
    except (UserError, KeyError):  # a parallel block has no hook_resid_mid, for instance
        with pytest.raises((UserError, KeyError)):
            model.read(TOKENS, {hook: change})
        return
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.reshape(-1, expected.shape[-1]).clone())
        return x

    model.read(TOKENS, {hook: keep})
    torch.testing.assert_close(kept[0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.read(TOKENS, {hook: change}, whole=True), changed, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(stepwise(model, TOKENS, 4, edits={hook: change}), changed, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["demo", *CONFIGS])
def test_a_rows_bits_do_not_depend_on_its_index_or_on_other_rows(
    models: Callable[[str], RowModel], demo: RowModel, name: str
) -> None:
    model = demo if name == "demo" else models(name)
    generator = torch.Generator().manual_seed(0)
    lengths = (1, 30, 31, 40, 63, 64, 65, 90, *range(110, 118))
    texts = [torch.randint(1, 8192, (n,), generator=generator).tolist() for n in lengths]
    d_vocab = model.lm.info.d_vocab
    texts = [[0, *(i % d_vocab for i in text)] for text in texts]
    text_of_row = dict(zip([2, 0, 15, 7, 8, 9, 1, 12, 3, 4, 5, 6, 10, 11, 13, 14], texts, strict=True))
    rows = Rows(capacity_of(128))
    for row, text in text_of_row.items():
        model.read(text, None, rows, row)
    together = [model.step(rows, list(range(ROWS)), dict.fromkeys(text_of_row, 5 + n),
                           {row: len(text) + n for row, text in text_of_row.items()}) for n in range(3)]
    for row, text in text_of_row.items():
        alone, index = Rows(capacity_of(128)), (row * 5 + 1) % ROWS
        model.read(text, None, alone, index)
        for n in range(3):
            order = model.order([index])
            logits = model.step(alone, order, {index: 5 + n}, {index: len(text) + n})
            assert torch.equal(logits[order.index(index)], together[n][row])


def test_weights_are_shared_with_the_bridge(demo: RowModel) -> None:
    bridge = {id(p.data.untyped_storage()) or 0: p for p in demo.lm.bridge.original_model.parameters()}
    ours = {p.data_ptr() for p in demo._model.parameters()}
    assert ours <= {p.data_ptr() for p in bridge.values()}


def test_a_model_that_cannot_be_computed_is_refused(demo_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowModel, "step", lambda *_args, **_kwargs: torch.zeros(ROWS, demo_lm.info.d_vocab))
    with pytest.raises(UserError, match="does not compute") as wrong:
        RowModel(demo_lm)
    assert wrong.value.field == "model"


def test_where_attention_is_unusual_it_is_said(demo_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowModel, "read", lambda *_args, **_kwargs: 1 / 0)
    with pytest.raises(UserError, match="cannot be decoded here"):
        RowModel(demo_lm)


def test_capacities_are_powers_of_two() -> None:
    assert [capacity_of(n) for n in (1, 256, 257, 512, 513)] == [256, 256, 512, 512, 1024]


def test_a_hook_point_that_is_not_there_is_named(demo: RowModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no hook point blocks\.1\.hook_nothing"):
        demo.read([0, 1], {"blocks.1.hook_nothing": change})
