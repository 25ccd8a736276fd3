"""The address, model and key of an endpoint, from a run's settings, the environment and the secrets folder.  No torch.

The key is never part of a run's settings, so it is in no file, log or page: it is read from `SAESCOPE_LLM_KEY`, or from
the file of that name in the folder `SAESCOPE_SECRETS_DIR`, when a request is sent.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sae.errors import UserError

URL, MODEL, KEY = "SAESCOPE_LLM_URL", "SAESCOPE_LLM_MODEL", "SAESCOPE_LLM_KEY"
HIDDEN = "[key]"


@dataclass(frozen=True)
class Endpoint:
    """An endpoint.  Its key is left out of its representation."""

    address: str
    model: str
    key: str = field(default="", repr=False)

    def without_key(self, text: str) -> str:
        """Return a text in which the key is not shown: some endpoints repeat it in an error."""
        return text.replace(self.key, HIDDEN) if self.key else text


def find_endpoint(address: str = "", model: str = "") -> Endpoint:
    """Return the endpoint of a run.  Empty values are those of the environment.

    Raises UserError (field `address` or `model`) if there is none, or it cannot be used.
    """
    address = (address or secret(URL)).rstrip("/")
    model = model or secret(MODEL)
    if not address:
        raise UserError(f"address: give the endpoint's address, such as http://localhost:8000/v1, or set {URL}",
                        "address")
    check_address(address)
    if not model:
        raise UserError(f"model: give the name of the model at {address}, or set {MODEL}", "model")
    return Endpoint(address.removesuffix("/chat/completions"), model, secret(KEY))


def check_address(address: str) -> None:
    """Raise UserError (field `address`) unless it is an http address without a key in it."""
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise UserError("address: it should be like http://localhost:8000/v1", "address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(f"address: leave out names, passwords and parameters; the key belongs into {KEY}", "address")


def secret(name: str) -> str:
    """Return a value of the environment, or of the file of this name in the secrets folder, or ""."""
    if value := os.environ.get(name, "").strip():
        return value
    folder = os.environ.get("SAESCOPE_SECRETS_DIR")
    for spelled in (name, name.lower()):
        path = Path(folder or ".") / spelled
        if folder and path.is_file():
            return path.read_text(encoding="utf-8").strip()
    return ""
