"""Explanations that an endpoint is writing now, one thread each, for the pages that watch them.

A finished one is added to the SAE's file of explanations, as a run would do.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from sae.errors import UserError
from sae.explain import results
from sae.explain.answers import Unparsable
from sae.explain.chat import RequestRefused
from sae.explain.endpoint_settings import Endpoint
from sae.explain.explainers import MODEL_METHOD
from sae.explain.records import Explanation
from sae.explain.streaming import StreamingClient, stream_explanation
from sae.explain.templates import Messages, load_templates
from sae.workspace.paths import Workspace, new_id

log = logging.getLogger(__name__)

AT_ONCE = 4  # answers that are written at the same time
KEPT = 64  # finished ones that a page may still ask for
ANSWER_TOKENS = 2000  # models that reason first need more than the text itself
_POLL_S = 0.1


@dataclass
class LiveExplanation:
    """The present state of one explanation: the answer so far, then `made` or `error`."""

    id: str
    sae_id: str
    latent: int
    model: str
    text: str = ""
    made: Explanation | None = None
    error: str = ""
    done: threading.Event = field(default_factory=threading.Event)

    async def watch(self) -> AsyncIterator[str]:
        """Yield the answer so far whenever it has grown, and at last the whole of it."""
        sent = None
        while not self.done.is_set():
            if self.text != sent:
                sent = self.text
                yield sent
            await asyncio.sleep(_POLL_S)
        if self.text != sent:
            yield self.text


class LiveExplanations:
    """The explanations that are being written."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace, self._lock = workspace, threading.Lock()
        self._found: dict[str, LiveExplanation] = {}

    def get(self, number: str) -> LiveExplanation | None:
        return self._found.get(number)

    def start(self, sae_id: str, latent: int, messages: Messages, version: str, endpoint: Endpoint) -> LiveExplanation:
        """Ask the endpoint in a thread.  A latent that is being explained already is not asked for twice.

        Raises UserError (field `model`) if too many are being written.
        """
        with self._lock:
            active = [one for one in self._found.values() if not one.done.is_set()]
            for one in active:
                if (one.sae_id, one.latent) == (sae_id, latent):
                    return one
            if len(active) >= AT_ONCE:
                raise UserError(f"model: {AT_ONCE} explanations are being written; try again in a moment", "model")
            one = LiveExplanation(new_id("explanation"), sae_id, latent, endpoint.model)
            self._found[one.id] = one
            for old in [o.id for o in self._found.values() if o.done.is_set()][: len(self._found) - KEPT]:
                del self._found[old]
        threading.Thread(
            target=self._write, args=(one, messages, version, endpoint), daemon=True, name=one.id).start()
        return one

    def _write(self, one: LiveExplanation, messages: Messages, version: str, endpoint: Endpoint) -> None:
        def show(text: str) -> None:
            one.text = text

        client = StreamingClient(endpoint)
        try:
            text = stream_explanation(client, messages, load_templates()["retry"], ANSWER_TOKENS, show)
            one.made = Explanation(one.latent, text, "model", method=MODEL_METHOD, model=endpoint.model,
                                   prompt_version=version)
            results.append(self._workspace.sae(one.sae_id), [one.made])
        except UserError as error:
            one.error = str(error)
        except RequestRefused as refusal:
            one.error = f"The endpoint refuses the request: {refusal}"
        except Unparsable as fault:
            one.error = f"The answer cannot be read: {fault}."
        except Exception:  # the page must not wait for ever
            log.exception("latent %s of %s could not be explained", one.latent, one.sae_id)
            one.error = "The explanation failed; the server's log says why."
        finally:
            client.close()
            one.done.set()
