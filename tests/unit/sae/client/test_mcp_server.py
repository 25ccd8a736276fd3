"""Tests of the MCP server with the library's own client, in the process and over stdio."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from mcp import Client as Assistant
from mcp import StdioServerParameters

from sae.client import AsyncClient, Client, Context
from sae.client.mcp_server import make_server, marked
from tests.unit.sae.client.conftest import SAE, Served

READS = ["activations_of_text", "comments", "get_latent", "list_saes", "lists", "search_by_text", "search_latents"]


def assist(served: Served, talk: Callable[[Assistant], Awaitable[None]], **options: bool) -> None:
    """Connect an assistant in this process and let it talk."""
    async def connect() -> None:
        async with AsyncClient(served.url, served.token) as client, Assistant(make_server(client, **options)) as one:
            await talk(one)

    asyncio.run(connect())


async def call(assistant: Assistant, name: str, **arguments: Any) -> Any:
    """Return what a tool answers."""
    result = await assistant.call_tool(name, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content.get("result", result.structured_content)


def test_it_only_reads_unless_steering_is_allowed(served: Served) -> None:
    async def talk(assistant: Assistant) -> None:
        tools = (await assistant.list_tools()).tools
        assert sorted(tool.name for tool in tools) == READS
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)
        assert all(tool.description for tool in tools)
        assert (await assistant.call_tool("steer", {"sae": SAE, "latent": 2, "prompt": "def"})).is_error

    assist(served, talk)


def test_an_assistant_finds_reads_and_tests_a_latent(served: Served) -> None:
    async def talk(assistant: Assistant) -> None:
        (sae,) = await call(assistant, "list_saes")
        assert (sae["sae"], sae["n_latents"]) == (SAE, 60)
        found = await call(assistant, "search_latents", text="self", limit=3)
        assert len(found) == 3
        latent = found[0]["latent"]
        read = await call(assistant, "get_latent", sae=SAE, latent=latent, contexts=2)
        assert len(read["contexts"]) == 2
        assert "«" in read["contexts"][0]["text"]
        assert any("self" in one["token"] for one in read["fires_on"])
        acts = await call(assistant, "activations_of_text", sae=SAE, text="def read(self):", latents=[latent])
        assert len(acts["activations"][str(latent)]) == len(acts["tokens"])

    assist(served, talk)


def test_an_assistant_searches_by_a_text_and_reads_what_people_wrote(served: Served) -> None:
    with Client(served.url, served.token) as client:
        made = client.create_list("for assistants")
        client.add_to_list(made.id, SAE, 6, "a note")
        client.comment(SAE, 6, "seen")

    async def talk(assistant: Assistant) -> None:
        found = await call(assistant, "search_by_text", text="def read(self):", limit=4)
        assert len(found) == 4
        assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
        assert "for assistants" in [one["name"] for one in await call(assistant, "lists")]
        (member,) = await call(assistant, "lists", list_id=made.id)
        assert (member["latent"], member["note"]) == (6, "a note")
        assert [one["text"] for one in await call(assistant, "comments", sae=SAE, latent=6)] == ["seen"]

    assist(served, talk)


def test_an_assistant_steers(served: Served) -> None:
    async def talk(assistant: Assistant) -> None:
        made = await call(assistant, "steer", sae=SAE, latent=2, prompt="def main(", strength=3, length=8)
        assert made["state"] == "succeeded"
        assert made["text"]["baseline"] != made["text"]["steered"]
        assert made["url"].startswith(served.url)

    assist(served, talk, allow_steer=True)


@pytest.mark.parametrize(("tool", "arguments", "says"), [
    ("get_latent", {"sae": SAE, "latent": 999}, "there is no latent 999"),
    ("get_latent", {"sae": "one", "latent": 1}, "is not an id"),
    ("activations_of_text", {"sae": SAE, "text": " "}, "texts.0")])
def test_a_fault_is_said_to_the_assistant(served: Served, tool: str, arguments: dict[str, Any], says: str) -> None:
    async def talk(assistant: Assistant) -> None:
        result = await assistant.call_tool(tool, arguments)
        assert result.is_error
        assert says in str(result.content)

    assist(served, talk)


def test_a_server_that_is_away_is_said_to_the_assistant() -> None:
    async def talk() -> None:
        async with AsyncClient("http://127.0.0.1:1") as client, Assistant(make_server(client)) as assistant:
            result = await assistant.call_tool("list_saes", {})
            assert result.is_error
            assert "does not answer" in str(result.content)

    asyncio.run(talk())


def test_a_context_marks_where_the_latent_fires() -> None:
    context = Context(0, 0, 2.0, "a.py", 1, ["a", "b", "c"], [0.0, 2.0, 0.0])
    assert marked(context) == "a«b»c"


def test_the_command_serves_over_stdio(served: Served) -> None:
    async def talk() -> None:
        command = ["-c", "from app.cli import main; main()", "mcp", "--url", served.url, "--allow-steer"]
        env = {"SAESCOPE_TOKEN": served.token, "PYTHONPATH": ":".join(sys.path)}
        server = StdioServerParameters(command=sys.executable, args=command, env=env)
        async with Assistant(server) as assistant:
            assert sorted(tool.name for tool in (await assistant.list_tools()).tools) == sorted([*READS, "steer"])
            (sae,) = await call(assistant, "list_saes")
            assert json.loads(json.dumps(sae))["sae"] == SAE

    asyncio.run(talk())
