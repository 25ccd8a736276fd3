"""The client against a server that speaks the protocol, with the faults of real endpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sae.errors import Cancelled, UserError
from sae.explain.answers import explanation_of
from sae.explain.budget import Budget, BudgetSpent
from sae.explain.chat import RequestRefused, ask_for, expected_values
from sae.explain.endpoint import EndpointClient
from sae.explain.endpoint_settings import Endpoint, find_endpoint
from sae.explain.request_cache import RequestCache
from sae.explain.templates import load_templates
from tests.chat_server import ChatServer, chat_server

KEY = "sk-secret-0123456789"
MESSAGES = [{"role": "user", "content": "What is it?"}]
ANSWER = '{"explanation": "a cat", "answers": [1, 0]}'


def first(fault: str, times: int = 1) -> Callable[[int], str]:
    return lambda number: fault if number < times else ""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., EndpointClient]]:
    """Return a function that makes a client of a server."""
    made = []

    def client(server: ChatServer, budget: Budget | None = None, **options: Any) -> EndpointClient:
        endpoint = Endpoint(server.address, "test-model", KEY)
        made.append(EndpointClient(endpoint, RequestCache(tmp_path / "requests.jsonl"), budget or Budget(), **{
            "timeout_s": 0.5, "pause_s": 0.01, **options}))
        return made[-1]

    yield client
    for one in made:
        one.close()


def test_the_protocol(make: Callable[..., EndpointClient], tmp_path: Path) -> None:
    with chat_server(lambda messages: ANSWER) as server:
        client = make(server)
        assert client.models() == ["test-model"]
        answer = client.ask(MESSAGES, 50, logprobs=True)
    assert answer.text == ANSWER
    assert (answer.tokens_in, answer.guessed) == (len("What is it?") // 4, False)
    assert expected_values(answer, 2, (0, 1)) == [pytest.approx(0.9), pytest.approx(0.1)]
    [one] = server.served
    assert one.headers["authorization"] == f"Bearer {KEY}"
    assert one.body == {"model": "test-model", "messages": MESSAGES, "max_tokens": 50, "temperature": 0,
                        "logprobs": True, "top_logprobs": 20}
    assert KEY not in (tmp_path / "requests.jsonl").read_text()


@pytest.mark.parametrize("fault", ["429", "500", "slow", "drip", "broken", "truncated"])
def test_what_fails_for_a_moment_is_repeated(make: Callable[..., EndpointClient], fault: str) -> None:
    with chat_server(lambda messages: ANSWER, first(fault, 2)) as server:
        client = make(server)
        assert client.ask(MESSAGES, 50).text == ANSWER
        assert client.n_repeated == 2
        assert [one.fault for one in server.served] == [fault, fault, ""]


def test_it_gives_up_after_the_last_attempt(make: Callable[..., EndpointClient]) -> None:
    with chat_server(lambda messages: ANSWER, lambda number: "500") as server:
        with pytest.raises(UserError, match="failed 3 times; the last time: status 500") as error:
            make(server, retries=2).ask(MESSAGES, 50)
        assert len(server.served) == 3
    assert error.value.field == "address"


def test_pauses_grow(make: Callable[..., EndpointClient], monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    with chat_server(lambda messages: ANSWER, first("500", 4)) as server:
        client = make(server, pause_s=0.1)
        monkeypatch.setattr(client, "_sleep", pauses.append)
        client.ask(MESSAGES, 50)
    assert [0.1 * 2**i <= pause <= 0.15 * 2**i for i, pause in enumerate(pauses)] == [True] * 4


def test_no_usage_is_estimated_and_an_empty_response_is_an_empty_answer(make: Callable[..., EndpointClient]) -> None:
    with chat_server(lambda messages: ANSWER, lambda number: ("no_usage", "empty")[number % 2]) as server:
        client = make(server)
        answer = client.ask(MESSAGES, 50)
        assert answer.guessed
        assert answer.tokens_in > 0
        assert client.budget.tokens == answer.tokens_in + answer.tokens_out
        assert client.ask([*MESSAGES, *MESSAGES], 50).text == ""


def test_no_logprobs_and_a_fenced_answer(make: Callable[..., EndpointClient]) -> None:
    with chat_server(lambda messages: ANSWER, lambda number: "fenced", logprobs=False) as server:
        text, answer = ask_for(make(server), MESSAGES, explanation_of, load_templates()["retry"], 50, logprobs=True)
    assert text == "a cat"
    assert answer.options is None


def test_parameters_that_an_endpoint_refuses_are_learned_once(make: Callable[..., EndpointClient]) -> None:
    with chat_server(lambda messages: ANSWER, refuses=("max_tokens", "temperature", "logprobs")) as server:
        client = make(server)
        client.ask(MESSAGES, 50, logprobs=True)
        client.ask([*MESSAGES, *MESSAGES], 50, logprobs=True)
    assert len(server.served) == 3 + 1 + 1
    assert server.served[-1].body == {
        "model": "test-model", "messages": [*MESSAGES, *MESSAGES], "max_completion_tokens": 50}


@pytest.mark.parametrize(("fault", "said", "field"), [
    ("401", "refuses the key", "key"), ("redirect", "redirects to another address", "address")])
def test_what_stays_wrong_is_not_repeated(
    make: Callable[..., EndpointClient], fault: str, said: str, field: str
) -> None:
    with chat_server(lambda messages: ANSWER, lambda number: fault) as server:
        with pytest.raises(UserError, match=said) as error:
            make(server).ask(MESSAGES, 50)
        assert len(server.served) == 1
    assert error.value.field == field
    assert KEY not in str(error.value)


def test_a_refused_request_says_why_without_the_key(make: Callable[..., EndpointClient]) -> None:
    with (chat_server(lambda messages: ANSWER, lambda number: "400") as server,
          pytest.raises(RequestRefused) as error):
        make(server).ask(MESSAGES, 50)
    assert "[key]" in str(error.value)
    assert KEY not in str(error.value)


def test_an_answer_is_paid_for_once(make: Callable[..., EndpointClient], tmp_path: Path) -> None:
    with chat_server(lambda messages: ANSWER) as server:
        one = make(server).ask(MESSAGES, 50)
        with open(tmp_path / "requests.jsonl", "ab") as file:
            file.write(b'{"key": "cut off by a ki')
        again = make(server)
        assert again.ask(MESSAGES, 50) == one
        assert len(server.served) == 1
        assert (again.cache.tokens_in, again.cache.tokens_out) == (one.tokens_in, one.tokens_out)
        again.ask(MESSAGES, 51)  # another request
        make(server).ask(MESSAGES, 51)
        assert len(server.served) == 2
    for line in (tmp_path / "requests.jsonl").read_text().splitlines():
        assert line.startswith('{"key": ')


def test_a_budget_is_never_exceeded(make: Callable[..., EndpointClient]) -> None:
    with chat_server(lambda messages: ANSWER) as server:
        client = make(server, Budget(max_tokens=200))
        for i in range(20):
            try:
                client.ask([{"role": "user", "content": f"{i}"}], 50)
            except BudgetSpent:
                break
        else:
            pytest.fail("the budget never ended")
        assert 0 < client.budget.tokens <= 200
        assert len(server.served) > 3
        money = Budget(max_money=0.001, price_in=1.0, price_out=10.0)
        money.reserve(0, 99)
        with pytest.raises(BudgetSpent):
            money.reserve(0, 2)
        money.release(0, 99)
        money.reserve(0, 100)
        money.pay(100, 50)
        assert money.spent == pytest.approx((100 * 1.0 + 50 * 10.0) / 1e6)


def test_a_stop_ends_a_pause_at_once(make: Callable[..., EndpointClient]) -> None:
    def check() -> None:
        if server.served:
            raise Cancelled

    with chat_server(lambda messages: ANSWER, lambda number: "500") as server:
        began = time.monotonic()
        with pytest.raises(Cancelled):
            make(server, pause_s=30.0, check=check).ask(MESSAGES, 50)
        assert time.monotonic() - began < 10


def test_the_endpoint_is_found_in_the_environment_and_the_secrets_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="SAESCOPE_LLM_URL"):
        find_endpoint()
    monkeypatch.setenv("SAESCOPE_LLM_URL", "http://localhost:1/v1/")
    with pytest.raises(UserError, match="SAESCOPE_LLM_MODEL"):
        find_endpoint()
    (tmp_path / "SAESCOPE_LLM_KEY").write_text(KEY + "\n")
    monkeypatch.setenv("SAESCOPE_SECRETS_DIR", str(tmp_path))
    found = find_endpoint("", "m")
    assert (found.address, found.model, found.key) == ("http://localhost:1/v1", "m", KEY)
    assert KEY not in repr(found)
    monkeypatch.setenv("SAESCOPE_LLM_KEY", "other")
    assert find_endpoint("http://h/v1/chat/completions", "m").key == "other"
    assert find_endpoint("http://h/v1/chat/completions", "m").address == "http://h/v1"


@pytest.mark.parametrize("address", [
    "localhost:8000", "file:///etc/passwd", "http://", "http://me:secret@host/v1", "https://host/v1?key=secret", "http://h:x"])
def test_an_address_that_cannot_be_used_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="address: ") as error:
        find_endpoint(address, "m")
    assert "secret" not in str(error.value)
