"""The guide names every method of the client and every tool of assistants, and none that does not exist."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from mcp import Client as Assistant

from sae.client import AsyncClient, Client
from sae.client.mcp_server import make_server

ROOT = Path(__file__).parents[4]
GUIDE = (ROOT / "docs" / "guide" / "api.md").read_text(encoding="utf-8")
METHODS = {name for name in dir(Client) if not name.startswith("_")}


def _named(heading: str) -> set[str]:
    """Return what the section under a heading sets as code."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", GUIDE, re.S | re.M)
    return set(re.findall(r"`([a-z_]+)`", section))


def test_the_guide_names_every_method() -> None:
    assert _named("All methods") == METHODS


@pytest.mark.parametrize("path", ["README.md", "docs/guide/api.md", "docs/guide/notebook.ipynb"])
def test_methods_in_examples_exist(path: str) -> None:
    used = set(re.findall(r"\bclient\.(\w+)\(", (ROOT / path).read_text(encoding="utf-8")))
    assert used
    assert used <= METHODS


def test_the_guide_names_every_tool() -> None:
    async def tools() -> set[str]:
        async with AsyncClient() as client, Assistant(make_server(client, allow_steer=True)) as assistant:
            return {tool.name for tool in (await assistant.list_tools()).tools}

    assert _named("Assistants") == asyncio.run(tools())
