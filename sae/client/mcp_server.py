"""An MCP server, by which assistants search latents, read contexts, test texts and steer.

It talks to a running saescope server by the client.  It only reads, unless steering is allowed.  The extra `mcp`
installs the library.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import asdict
from typing import Any, TypeVar

import httpx
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from sae import __version__
from sae.client.clients import AsyncClient, Rank
from sae.client.records import Context, Latent
from sae.client.requests import SaescopeError

T = TypeVar("T")
MAX_CONTEXTS = 20
_AROUND = 24  # tokens on each side of a context's peak
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_STEERS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
_INSTRUCTIONS = (
    "saescope shows the latents of sparse autoencoders (SAEs) of language models. Begin with list_saes, find latents "
    "with search_latents, and read the contexts of one with get_latent before you say what it means. "
    "activations_of_text tests a guess on a text of your own.")


def make_server(client: AsyncClient, *, allow_steer: bool = False) -> MCPServer:
    """Make the server, whose tools ask saescope by `client`."""
    server = MCPServer("saescope", version=__version__, instructions=_INSTRUCTIONS)

    @server.tool(annotations=_READS)
    async def list_saes() -> list[dict[str, Any]]:
        """List the SAEs: id, architecture, number of latents, layer, hook, and metrics such as FVU and L0."""
        found = await _asked(client.saes())
        return [{"sae": one.id, **{name: value for name, value in asdict(one).items()
                                   if name not in ("model", "sae", "hidden")}} for one in found if not one.hidden]

    @server.tool(annotations=_READS)
    async def search_latents(text: str, sae: str = "", limit: int = 10) -> list[dict[str, Any]]:
        """Find latents by a word: by their label, their rule, the tokens they fire on, the logits they raise.

        `sae` is the id of the SAE to search; empty: all of them.
        """
        return [asdict(one) for one in await _asked(client.search(text, sae or None, limit))]

    @server.tool(annotations=_READS)
    async def search_by_text(
        text: str, model: str = "", sae: str = "", rank: Rank = "surprise", limit: int = 10
    ) -> list[dict[str, Any]]:
        """Find the latents that are active on a text, over all SAEs of a model, or with `sae` of that SAE alone.

        `rank` is max or sum (in units of each latent's own maximum), or surprise (in bits), which favours latents
        that are rare elsewhere.  Always-on latents are left out.
        """
        found = await _asked(client.search_text(text, sae or None, model=model or None, rank=rank, top=limit))
        return [asdict(one) for one in found]

    @server.tool(annotations=_READS)
    async def lists(list_id: str = "") -> list[dict[str, Any]]:
        """List the named lists of latents that people have made, or with `list_id` the latents of one with notes."""
        if list_id:
            return [asdict(one) for one in (await _asked(client.latent_list(list_id))).latents]
        return [{name: value for name, value in asdict(one).items() if name != "latents"}
                for one in await _asked(client.lists())]

    @server.tool(annotations=_READS)
    async def comments(sae: str, latent: int) -> list[dict[str, Any]]:
        """Read what people have commented on a latent."""
        return [asdict(one) for one in await _asked(client.comments(sae, latent))]

    @server.tool(annotations=_READS)
    async def get_latent(sae: str, latent: int, contexts: int = 8) -> dict[str, Any]:
        """Read a latent: its label, explanations, tokens, promoted tokens, and contexts in which it fires.

        In a context the tokens on which it fires are in «guillemets»; band 0 has the strongest contexts.
        """
        return describe(await _asked(client.latent(sae, latent)), contexts)

    @server.tool(annotations=_READS)
    async def activations_of_text(
        sae: str, text: str, latents: list[int] | None = None, top: int = 10
    ) -> dict[str, Any]:
        """Read a text with an SAE: its strongest latents, or the activations of the given latents on its tokens."""
        (found,) = await _asked(client.activations(sae, [text], latents=latents or [], top=top))
        return {
            "tokens": [token.text for token in found.tokens], "ranked": [asdict(row) for row in found.ranked],
            "activations": {str(latent): found.of(latent) for latent in latents or []}}

    if allow_steer:
        @server.tool(annotations=_STEERS)
        async def steer(
            sae: str, latent: int, prompt: str, strength: float | None = None, length: int = 60, seed: int = 0
        ) -> dict[str, Any]:
            """Let the model continue a prompt, unsteered and with a latent added.

            `strength` is in units of the latent's maximum activation; without one, the server takes a usual one.
            """
            chosen: dict[str, Any] = {"sae": sae, "latent": latent}
            chosen |= {} if strength is None else {"strength": strength}
            run = await _asked(client.steer([chosen], prompt, length=length, seed=seed))
            if run.state == "failed":
                raise ToolError(run.error or "the run failed")
            return {"url": run.url, "state": run.state, "text": run.text}

    return server


def describe(found: Latent, contexts: int) -> dict[str, Any]:
    """Return what an assistant needs of a latent, with at most so many contexts."""
    shown = found.contexts[: max(0, min(contexts, MAX_CONTEXTS))]
    return {
        "sae": found.sae, "latent": found.latent, "url": found.url, "label": found.label.text,
        "note": found.label.note, "explanations": [
            {name: one.get(name) for name in ("text", "kind", "author", "scores")} for one in found.explanations],
        "density": found.density, "max_act": found.max_act, "flags": found.flags,
        "fires_on": [{"token": token, "firings": n, "lift": lift} for token, n, lift in found.fires_on],
        "promotes": [token for token, _ in found.promotes], "suppresses": [token for token, _ in found.suppresses],
        "contexts": [{"band": one.band, "act": one.act, "document": one.document, "text": marked(one)}
                     for one in shown]}


def marked(context: Context) -> str:
    """Return the text around a context's peak, with the tokens on which the latent fires in guillemets."""
    first, last = max(0, context.peak - _AROUND), context.peak + _AROUND
    pairs = zip(context.tokens[first:last], context.acts[first:last], strict=True)
    return "".join(f"«{token}»" if act > 0 else token for token, act in pairs)


async def _asked(answer: Awaitable[T]) -> T:
    """Await an answer.  Raises ToolError with the server's message, for the assistant to read."""
    try:
        return await answer
    except (SaescopeError, ValueError) as error:
        raise ToolError(str(error)) from None
    except httpx.HTTPError as error:
        raise ToolError(f"the saescope server does not answer: {error or type(error).__name__}") from None


def serve(url: str, token: str | None, *, allow_steer: bool) -> None:
    """Serve over standard input and output until the input ends."""
    make_server(AsyncClient(url, token), allow_steer=allow_steer).run()
