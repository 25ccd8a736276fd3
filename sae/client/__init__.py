"""A client of a running saescope server, for programs and notebooks.

    from sae.client import Client

    client = Client("http://127.0.0.1:8000", token="saescope_…")
    client.search("self")

It needs httpx, and pandas for `to_frame`.  It imports neither torch nor the web program.
"""

from sae.client.clients import AsyncClient, Client
from sae.client.records import (
    ActiveLatent,
    Comment,
    Context,
    FoundLatent,
    Label,
    Latent,
    LatentList,
    LatentOnText,
    LatentTable,
    ListMember,
    Model,
    Reason,
    Run,
    Sae,
    SteerEvent,
    SteeringResult,
    TextActivations,
    TextLatent,
    TextToken,
)
from sae.client.requests import SaescopeError

__all__ = [
    "ActiveLatent", "AsyncClient", "Client", "Comment", "Context", "FoundLatent", "Label", "Latent", "LatentList",
    "LatentOnText", "LatentTable", "ListMember", "Model", "Reason", "Run", "Sae", "SaescopeError", "SteerEvent",
    "SteeringResult", "TextActivations", "TextLatent", "TextToken"]
