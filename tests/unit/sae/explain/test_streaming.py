"""A streamed answer and the test of a connection, over HTTP and with the faults of real endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sae.errors import UserError
from sae.explain.answers import Unparsable
from sae.explain.endpoint_settings import Endpoint
from sae.explain.streaming import StreamingClient, stream_explanation, try_connection
from sae.explain.templates import load_templates
from tests.chat_server import ChatServer, chat_server

KEY = "sk-secret-0123456789"
MESSAGES = [{"role": "user", "content": "What is it?"}]
ANSWER = '{"explanation": "a very small cat"}'


def by_turn(*faults: str) -> Callable[[int], str]:
    return lambda number: faults[number] if number < len(faults) else ""


@pytest.fixture
def ask() -> Iterator[Callable[..., tuple[str, list[str]]]]:
    made = []

    def asked(server: ChatServer, **options: float) -> tuple[str, list[str]]:
        client = StreamingClient(Endpoint(server.address, "m", KEY), **{"timeout_s": 0.5, "pause_s": 0.01, **options})
        made.append(client)
        shown: list[str] = []
        return client.stream(MESSAGES, 50, shown.append), shown

    yield asked
    for client in made:
        client.close()


def test_the_text_is_shown_as_it_comes(ask: Callable[..., tuple[str, list[str]]]) -> None:
    with chat_server(lambda messages: ANSWER) as server:
        text, shown = ask(server)
    assert text == ANSWER
    assert shown == [ANSWER[:n] for n in (*range(5, len(ANSWER), 5), len(ANSWER))]
    assert server.served[0].body["stream"] is True
    assert server.served[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("fault", ["truncated", "429", "500", "drip", "broken"])
def test_a_failure_begins_again(ask: Callable[..., tuple[str, list[str]]], fault: str) -> None:
    with chat_server(lambda messages: ANSWER, by_turn(fault)) as server:
        text, _ = ask(server, timeout_s=0.2)
        assert (text, len(server.served)) == (ANSWER, 2)
    with chat_server(lambda messages: ANSWER, lambda number: fault) as server:
        with pytest.raises(UserError, match="failed 1 times") as error:
            ask(server, retries=0, timeout_s=0.2)
        assert error.value.field == "address"


def test_servers_that_do_not_stream_or_refuse_parameters(ask: Callable[..., tuple[str, list[str]]]) -> None:
    with chat_server(lambda messages: ANSWER, lambda number: "unstreamed") as server:
        assert ask(server) == (ANSWER, [ANSWER])
    with chat_server(lambda messages: ANSWER, refuses=("temperature", "max_tokens")) as server:
        assert ask(server)[0] == ANSWER
        assert server.served[-1].body["max_completion_tokens"] == 50


def test_the_key_is_never_shown(ask: Callable[..., tuple[str, list[str]]]) -> None:
    with chat_server(lambda messages: ANSWER, lambda number: "garbage") as server:
        text, shown = ask(server)
    assert KEY not in text
    assert KEY not in shown[-1]
    with chat_server(lambda messages: ANSWER, lambda number: "401") as server, pytest.raises(UserError) as error:
        ask(server)
    assert KEY not in str(error.value)
    assert error.value.field == "key"


def test_an_answer_that_cannot_be_read_is_asked_for_once_more() -> None:
    retry = load_templates()["retry"]
    with chat_server(lambda messages: ANSWER, by_turn("garbage")) as server:
        client = StreamingClient(Endpoint(server.address, "m"), pause_s=0.01)
        assert stream_explanation(client, MESSAGES, retry, 50, lambda text: None) == "a very small cat"
        client.close()
        assert len(server.served[1].messages) == 3
    with chat_server(lambda messages: ANSWER, lambda number: "garbage") as server:
        client = StreamingClient(Endpoint(server.address, "m"), pause_s=0.01)
        with pytest.raises(Unparsable):
            stream_explanation(client, MESSAGES, retry, 50, lambda text: None)
        client.close()


def test_the_connection_is_tried() -> None:
    with chat_server(lambda messages: "yes") as server:
        found = try_connection(Endpoint(server.address, "test-model", KEY))
        assert (found.models, found.answer, found.usage, found.logprobs) == (["test-model"], "yes", True, True)
    with chat_server(lambda messages: "yes", lambda number: "no_usage", logprobs=False) as server:
        found = try_connection(Endpoint(server.address, "test-model"))
        assert (found.usage, found.logprobs) == (False, False)
    for fault, field in (("401", "key"), ("400", "model"), ("500", "address"), ("redirect", "address")):
        with chat_server(lambda messages: "yes", lambda number, fault=fault: fault) as server:
            with pytest.raises(UserError) as error:
                try_connection(Endpoint(server.address, "test-model", KEY))
            assert error.value.field == field
            assert KEY not in str(error.value)
    with pytest.raises(UserError, match="address: "):
        try_connection(Endpoint("http://127.0.0.1:9/v1", "m"))
