"""Reading without the bridge gives the bridge's activations, or else the bridge is used."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import transformers
from transformers.activations import GELUActivation, NewGELUActivation, SiLUActivation

import sae.lm.fast_reader
from sae.kernels.device import has_fast_bfloat16
from sae.lm.bridge import LanguageModel
from sae.lm.fast_reader import Read, _with_fused_gelu, parallel_readers, reader
from sae.lm.model_info import DEMO_PATH
from tests.toys import ToyModel
from tests.unit.sae.lm.test_row_model import CONFIGS, TOKENS

HOOKS = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.0.hook_mlp_out", "blocks.1.hook_attn_out",
         "blocks.1.hook_mlp_in", "blocks.1.mlp.hook_in", "blocks.0.attn.hook_z", "blocks.1.ln2.hook_normalized"]


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(3)
    random = transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param]())
    random.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_PATH / file, folder)
    return LanguageModel.load(str(folder), "cpu")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_reader_gives_the_activations_at_a_hook_point(model: LanguageModel, hook: str) -> None:
    tokens_PS = torch.tensor([TOKENS, TOKENS[::-1], [7] * len(TOKENS)])
    hooks = [hook, "blocks.0.hook_resid_post"]
    read = reader(model, hooks)
    for part_PS in (tokens_PS, tokens_PS[1:]):
        for found, expected in zip(read(part_PS), model.activations_at(part_PS, hooks), strict=True):
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    # The bridge's model is unchanged, including its hooks.
    assert model.bridge.original_model.config._attn_implementation == "eager"
    assert not torch.equal(model.logits(tokens_PS, {hooks[1]: torch.zeros_like}), model.logits(tokens_PS))


def test_the_bridge_is_asked_once_where_the_residual_stream_is_read(
    demo_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    by_bridge = demo_lm.activations_at

    def counting(tokens_PS: torch.Tensor, hooks: Any) -> Any:
        asked.append(tuple(tokens_PS.shape))
        return by_bridge(tokens_PS, hooks)

    monkeypatch.setattr(demo_lm, "activations_at", counting)
    hook, tokens_PS = "blocks.2.hook_resid_post", torch.arange(24).view(3, 8)
    read = reader(demo_lm, [hook])
    for part_PS in (tokens_PS, tokens_PS[:2]):
        torch.testing.assert_close(read(part_PS)[0], by_bridge(part_PS, [hook])[0], rtol=1e-5, atol=1e-4)
    assert asked == [(1, 8)]


@pytest.mark.parametrize("wrong", [("sdpa",), ("sdpa", "eager")])
def test_what_reads_something_else_is_not_used(
    demo_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, ...]
) -> None:
    bare, hook, tokens_PS = sae.lm.fast_reader._bare_reader, "blocks.1.hook_resid_post", torch.arange(24).view(3, 8)

    def off(lm: LanguageModel, hooks: Any, attention: str, **_: Any) -> Any:
        read = bare(lm, hooks, attention)
        assert read is not None
        return (lambda tokens_PS: [x_PSD * 1.01 for x_PSD in read(tokens_PS)]) if attention in wrong else read

    eager = bare(demo_lm, [hook], "eager")
    assert eager is not None
    monkeypatch.setattr(sae.lm.fast_reader, "_bare_reader", off)
    expected = demo_lm.activations(tokens_PS, hook) if "eager" in wrong else eager(tokens_PS)[0]
    assert torch.equal(reader(demo_lm, [hook])(tokens_PS)[0], expected)


def test_several_threads_read_what_one_reads(demo_lm: LanguageModel) -> None:
    hook, tokens_PS = "blocks.1.hook_resid_post", torch.arange(48).view(6, 8)
    readers = parallel_readers(demo_lm, [hook], 3, tokens_PS)
    assert len(set(readers)) == 3
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda i: readers[i](tokens_PS[2 * i : 2 * i + 2])[0], range(3)))
    assert torch.equal(torch.cat(found), readers[0](tokens_PS)[0])
    toy = ToyModel()
    tokens_PS = tokens_PS % 29
    only, = parallel_readers(toy, [hook], 3, tokens_PS)  # type: ignore[arg-type]
    assert torch.equal(only(tokens_PS)[0], toy.activations(tokens_PS, hook))


def test_linear_layers_are_computed_by_onednn(demo_lm: LanguageModel) -> None:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        pytest.skip("this torch has no oneDNN")
    model = sae.lm.fast_reader._by_onednn(sae.lm.fast_reader._bare_model(demo_lm), False, {})
    kinds = [type(module) for module in model.modules()]
    assert torch.nn.Linear not in kinds
    assert kinds.count(sae.lm.fast_reader._Linear) == 7 * demo_lm.info.n_layers + 1


@pytest.mark.parametrize("autocast", [False, True])
def test_readers_side_by_side_read_what_one_reads(
    demo_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, autocast: bool
) -> None:
    hooks, tokens_PS = ["blocks.0.hook_attn_out", "blocks.1.hook_resid_post"], torch.arange(3 * 64).view(3, 64)
    (alone,) = parallel_readers(demo_lm, hooks, 1, tokens_PS, autocast=autocast)
    expected, threads = alone(tokens_PS), torch.get_num_threads()
    asked: list[int] = []
    side_by_side = sae.lm.fast_reader._side_by_side

    def counted(readers: list[Read]) -> Read:
        return side_by_side([lambda part_PS, one=one: asked.append(len(part_PS)) or one(part_PS) for one in readers])

    monkeypatch.setattr(sae.lm.fast_reader, "_PART_TOKENS", 64)
    monkeypatch.setattr(sae.lm.fast_reader, "_side_by_side", counted)
    torch.set_num_threads(2)
    try:
        found = reader(demo_lm, hooks, autocast=autocast)(tokens_PS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert sorted(asked) == [1, 2]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_written_out_gelu_becomes_one_operation() -> None:
    layers = torch.nn.ModuleList([NewGELUActivation(), GELUActivation(), SiLUActivation()])
    first, *others = _with_fused_gelu(layers)
    assert isinstance(first, torch.nn.GELU)
    assert [type(one) for one in others] == [GELUActivation, SiLUActivation]  # other functions stay
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(first(x), NewGELUActivation()(x))


def test_what_is_no_bridge_reads_by_itself() -> None:
    lm, tokens_PS = ToyModel(), torch.arange(24).view(3, 8)
    read = reader(lm, ["blocks.1.hook_resid_post"])  # type: ignore[arg-type]
    assert torch.equal(read(tokens_PS)[0], lm.activations(tokens_PS, ""))


def test_in_bfloat16_a_reader_is_as_near_to_float32_as_the_bridge(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks, tokens_PS = ["blocks.1.hook_resid_post", "blocks.0.attn.hook_z"], torch.tensor([TOKENS, TOKENS[::-1]])
    for fast in (True, False):
        monkeypatch.setattr(sae.lm.fast_reader, "has_fast_bfloat16", lambda fast=fast: fast)
        found = reader(model, hooks, autocast=True)(tokens_PS)
        by_bridge = model.activations_at(tokens_PS, hooks, autocast=fast)
        for own, bridge, exact in zip(found, by_bridge, model.activations_at(tokens_PS, hooks), strict=True):
            assert own.dtype == torch.float32
            assert (own - exact).norm() <= 2.5 * (bridge - exact).norm() + 1e-4 * exact.norm()
            assert bool((own - exact).norm() > 1e-4 * exact.norm()) == fast


@pytest.mark.skipif(not has_fast_bfloat16(), reason="this processor does not multiply bfloat16")
@pytest.mark.parametrize("off", [1.0, 1.1])
def test_a_reader_in_bfloat16_that_is_too_far_off_is_not_used(
    demo_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], off: float
) -> None:
    bare, hook, tokens_PS = sae.lm.fast_reader._bare_reader, "blocks.1.hook_resid_post", torch.arange(24).view(3, 8)

    def scaled(lm: LanguageModel, hooks: Any, attention: str, *, low: bool = False, **_: Any) -> Any:
        read = bare(lm, hooks, attention, low=low)
        assert read is not None
        return (lambda tokens_PS: [x_PSD * off for x_PSD in read(tokens_PS)]) if low else read

    monkeypatch.setattr(sae.lm.fast_reader, "_bare_reader", scaled)
    sae.lm.fast_reader._say_how.cache_clear()
    found = reader(demo_lm, [hook], autocast=True)(tokens_PS)[0]
    assert torch.equal(found, demo_lm.activations(tokens_PS, hook, autocast=True)) == (off == 1.1)
    assert f"read {'by' if off == 1.1 else 'without'} the bridge, in bfloat16" in capsys.readouterr().out
