"""Explanations in the programs of others: their own readers read our files, and we read what their code writes.

Each test needs the package of that program and is skipped without it.  None of them is a dependency of ours:
`pip install openai neuronpedia`, and `pip install --no-deps eai-delphi sae-bench` with what their modules import.
"""

from __future__ import annotations

import asyncio
import json
import sys
import types
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sae.explain.exchange import formats
from sae.explain.records import Explanation, Score
from tests.chat_server import chat_server
from tests.unit.sae.explain.conftest import SAE
from tests.unit.sae.explain.exchange.exchanged import ALL, MODEL

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # the warnings of other programs are not ours
TEXTS = {one.latent: one.text for one in ALL if isinstance(one, Explanation)}
MODULE = "layers.5"


# ---- openai


@pytest.fixture
def openai() -> Any:
    return pytest.importorskip("openai")


def client_of(openai: Any, address: str) -> Any:
    """Make a client that accepts only responses that have every field of the protocol with its type."""
    return openai.OpenAI(api_key="sk-test", base_url=address, max_retries=0, _strict_response_validation=True)


def test_openais_client_accepts_what_the_test_server_says(openai: Any) -> None:
    with chat_server(lambda messages: '{"answers": [1, 0]}') as server:
        client = client_of(openai, server.address)
        assert [model.id for model in client.models.list()] == ["test-model"]
        asked: dict[str, Any] = {"model": "test-model", "messages": [{"role": "user", "content": "cats?"}]}
        answer = client.chat.completions.create(
            **asked, max_tokens=20, temperature=0, logprobs=True, top_logprobs=5)
        assert answer.choices[0].message.content == '{"answers": [1, 0]}'
        assert [row.token for row in answer.choices[0].logprobs.content] == ['{"answers": [', "1", ", ", "0", "]}"]
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        parts = client.chat.completions.create(**asked, stream=True, max_tokens=20)
        assert "".join(part.choices[0].delta.content or "" for part in parts) == '{"answers": [1, 0]}'
        assert server.served[0].headers["authorization"] == "Bearer sk-test"


@pytest.mark.parametrize(("fault", "error"), [
    ("401", "AuthenticationError"), ("400", "BadRequestError"), ("429", "RateLimitError"),
    ("500", "InternalServerError")])
def test_openais_client_knows_the_faults_of_the_test_server(openai: Any, fault: str, error: str) -> None:
    with chat_server(lambda messages: "x", lambda number: fault) as server, pytest.raises(getattr(openai, error)) as e:
        client_of(openai, server.address).chat.completions.create(
            model="m", messages=[{"role": "user", "content": "cats?"}])
    assert e.value.status_code == int(fault)
    assert e.value.body["message"]


# ---- neuronpedia


def test_neuronpedias_client_reads_our_explanations(tmp_path: Path) -> None:
    theirs = pytest.importorskip("neuronpedia.np_explanation")
    formats.write("neuronpedia", ALL, tmp_path / "e.jsonl", SAE, "2-res", MODULE)
    found = [theirs.Explanation.from_np_db_json(json.loads(line))
             for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert {one.index: one.text for one in found} == TEXTS
    [model] = [one for one in found if one.index == MODEL.latent]
    assert (model.modelId, model.source, model.method, model.explainer_model) == (
        "demo", "2-res", MODEL.method, MODEL.model)


# ---- SAEBench


def test_saebenchs_classes_read_our_results_and_we_read_theirs(tmp_path: Path) -> None:
    output = pytest.importorskip("sae_bench.evals.autointerp.eval_output")
    pydantic = pytest.importorskip("pydantic")
    second = Explanation(3, "fires on raise", "model")
    records = [*ALL, second, Score(3, "detection", 0.7, 25, second.id)]
    formats.write("saebench", records, tmp_path / "e.json", SAE, "2-res", MODULE)
    found = pydantic.TypeAdapter(output.AutoInterpEvalOutput).validate_json((tmp_path / "e.json").read_text())
    assert found.eval_type_id == output.EVAL_TYPE_ID_AUTOINTERP
    assert found.eval_result_metrics.autointerp.autointerp_score == pytest.approx(0.8)
    assert found.eval_result_metrics.autointerp.autointerp_std_dev == pytest.approx(0.1414, abs=1e-4)
    assert {row["latent"]: row["explanation"] for row in found.eval_result_unstructured.values()} == {
        **TEXTS, 3: "fires on raise"}

    config = pytest.importorskip("sae_bench.evals.autointerp.eval_config")
    theirs = output.AutoInterpEvalOutput(
        eval_config=config.AutoInterpEvalConfig(model_name="pythia-70m", llm_batch_size=8), eval_id="1",
        datetime_epoch_millis=1_700_000_000_000,
        eval_result_metrics=output.AutoInterpMetricCategories(
            autointerp=output.AutoInterpMetrics(autointerp_score=0.5, autointerp_std_dev=float("nan"))),
        eval_result_details=[], sae_bench_commit_hash="", sae_lens_id="x", sae_lens_release_id="y",
        sae_lens_version="", sae_cfg_dict={},
        eval_result_unstructured={4: {"latent": 4, "explanation": "cats", "logs": "", "predictions": [1, 2],
                                      "correct seqs": [1], "score": 13 / 14}})
    theirs.to_json_file(str(tmp_path / "theirs_eval_results.json"))
    score, one = formats.read(tmp_path / "theirs_eval_results.json", 10)
    assert isinstance(score, Score)
    assert isinstance(one, Explanation)
    assert (one.latent, one.text, score.value, score.n) == (4, "cats", 13 / 14, 14)


# ---- delphi


@pytest.fixture
def delphi(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return delphi's scorers.  Its package imports vllm for a client that is not used here, so a stand-in serves."""
    pytest.importorskip("delphi")
    if "vllm" not in sys.modules:
        for name, values in {
                "vllm": ("LLM", "SamplingParams"), "vllm.distributed": (), "vllm.inputs": ("TokensPrompt",),
                "vllm.distributed.parallel_state": (
                    "destroy_distributed_environment", "destroy_model_parallel")}.items():
            module = types.ModuleType(name)
            for value in values:
                setattr(module, value, object)
            monkeypatch.setitem(sys.modules, name, module)
    return pytest.importorskip("delphi.scorers")


def test_delphi_finds_our_explanations(delphi: Any, tmp_path: Path) -> None:
    orjson = pytest.importorskip("orjson")
    from delphi.latents.latents import Latent  # type: ignore[import-not-found,unused-ignore]

    formats.write("delphi", ALL, tmp_path / "run", SAE, "2-res", MODULE)
    for latent, text in TEXTS.items():  # as its run with `explainer` none reads them
        assert orjson.loads((tmp_path / "run/explanations" / f"{Latent(MODULE, latent)}.txt").read_bytes()) == text


def test_we_read_what_delphi_scores(delphi: Any, tmp_path: Path) -> None:
    """Its own scorers write the scores, and its own analysis agrees with ours about them."""
    orjson = pytest.importorskip("orjson")
    torch = pytest.importorskip("torch")
    from delphi.clients.openrouter import OpenRouter  # type: ignore[import-not-found,unused-ignore]
    from delphi.explainers import DefaultExplainer  # type: ignore[import-not-found,unused-ignore]
    from delphi.latents.latents import (  # type: ignore[import-not-found,unused-ignore]
        ActivatingExample,
        Latent,
        LatentRecord,
        NonActivatingExample,
    )
    from delphi.log import result_analysis  # type: ignore[import-not-found,unused-ignore]

    def brain(messages: list[dict[str, str]]) -> str:
        last = messages[-1]["content"]
        if "Latent explanation" not in last:
            return "It is about animals.\n[EXPLANATION]: cats"
        rows = [line for line in last.splitlines() if line.startswith("Example ")][-5:]
        return str([int("cat" in row and "two" not in row) for row in rows])  # it misses one of the cats

    def tensor(*values: float) -> Any:
        return torch.tensor(values)

    words = ["a", " cat", " sat", " on", " a", " mat", " now", "."]
    quiet = ["a", " dog", " ran", " to", " a", " house", " now", "."]
    acts = tensor(0, 2.0, 0, 0, 0, 0, 0, 0)
    test = [ActivatingExample(torch.arange(8), acts, normalized_activations=acts * 5, str_tokens=[n, *words[1:]],
                              quantile=1) for n in ("one", "two", "five", "six", "ten")]
    silent = [NonActivatingExample(torch.arange(8), torch.zeros(8), str_tokens=[n, *quiet[1:]]) for n in "abcde"]
    record = LatentRecord(Latent(MODULE, 3), examples=test, train=test, test=test, not_active=silent)
    with chat_server(brain) as server:
        client = OpenRouter("test-model", api_key="k", base_url=f"{server.address}/chat/completions")

        async def run() -> Any:
            explained = await DefaultExplainer(client)(record)
            record.explanation = explained.explanation
            return explained, [await scorer(record) for scorer in (
                delphi.DetectionScorer(client, n_examples_shown=5), delphi.FuzzingScorer(client, n_examples_shown=5))]

        explained, scored = asyncio.run(run())
    (tmp_path / "explanations").mkdir()
    (tmp_path / "explanations" / f"{record.latent}.txt").write_bytes(orjson.dumps(explained.explanation))
    for name, result in zip(("detection", "fuzz"), scored, strict=True):
        (tmp_path / "scores" / name).mkdir(parents=True)
        (tmp_path / "scores" / name / f"{record.latent}.txt").write_bytes(orjson.dumps(result.score))

    found = formats.read(tmp_path, 10)
    assert [(one.latent, one.text) for one in found if isinstance(one, Explanation)] == [(3, "cats")]
    ours = {one.scorer: (one.value, one.f1) for one in found if isinstance(one, Score)}
    frame, _ = result_analysis.load_data(tmp_path / "scores", [MODULE])
    theirs = {row.score_type: (row.accuracy, row.f1_score)
              for row in result_analysis.get_agg_metrics(frame, None).itertuples()}
    assert ours["detection"] == pytest.approx(theirs["detection"])
    assert ours["detection"] == pytest.approx((0.9, 8 / 9))
    assert ours["fuzzing"] == pytest.approx(theirs["fuzz"])
    assert asdict(scored[0].score[0])["prediction"] in (True, False)
