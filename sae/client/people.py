"""The clients' methods for what people do together: comments, stars and lists."""

from __future__ import annotations

from typing import TypeVar

from sae.client import requests
from sae.client.records import Comment, LatentList, LatentOnText
from sae.client.requests import Flow

T = TypeVar("T")


class PeopleCalls:
    """The methods of the client that waits."""

    url: str

    def _send(self, flow: Flow[T]) -> T:
        raise NotImplementedError

    def comments(self, sae: str, latent: int) -> list[Comment]:
        """Return the comments on a latent, oldest first."""
        return self._send(requests.comments(sae, latent))

    def comment(self, sae: str, latent: int, text: str) -> Comment:
        """Comment on a latent."""
        return self._send(requests.comment(sae, latent, text))

    def stars(self, sae: str) -> list[int]:
        """Return your starred latents of an SAE."""
        return self._send(requests.stars(sae))

    def star(self, sae: str, latent: int, on: bool = True) -> None:
        """Star a latent, or remove your star."""
        return self._send(requests.star(sae, latent, on))

    def lists(self) -> list[LatentList]:
        """Return all named lists, without their latents."""
        return self._send(requests.lists(self.url))

    def latent_list(self, list_id: str) -> LatentList:
        """Return a list with its latents."""
        return self._send(requests.latent_list(self.url, list_id))

    def create_list(self, name: str, description: str = "", test_text: str = "") -> LatentList:
        """Make an empty list."""
        return self._send(requests.create_list(self.url, name, description, test_text))

    def delete_list(self, list_id: str) -> None:
        """Delete a list."""
        return self._send(requests.delete_list(list_id))

    def add_to_list(self, list_id: str, sae: str, latent: int, note: str | None = None) -> LatentList:
        """Add a latent to a list, or change its note (None: unchanged)."""
        return self._send(requests.add_to_list(self.url, list_id, sae, latent, note))

    def remove_from_list(self, list_id: str, sae: str, latent: int) -> LatentList:
        """Remove a latent from a list."""
        return self._send(requests.remove_from_list(self.url, list_id, sae, latent))

    def list_on_text(self, list_id: str, text: str = "") -> list[LatentOnText]:
        """Run a text, or the list's own test text, through every latent of a list."""
        return self._send(requests.list_on_text(list_id, text))


class AsyncPeopleCalls:
    """The methods of `PeopleCalls` for the client that is awaited."""

    url: str

    async def _send(self, flow: Flow[T]) -> T:
        raise NotImplementedError

    async def comments(self, sae: str, latent: int) -> list[Comment]:
        """Return the comments on a latent, oldest first."""
        return await self._send(requests.comments(sae, latent))

    async def comment(self, sae: str, latent: int, text: str) -> Comment:
        """Comment on a latent."""
        return await self._send(requests.comment(sae, latent, text))

    async def stars(self, sae: str) -> list[int]:
        """Return your starred latents of an SAE."""
        return await self._send(requests.stars(sae))

    async def star(self, sae: str, latent: int, on: bool = True) -> None:
        """Star a latent, or remove your star."""
        return await self._send(requests.star(sae, latent, on))

    async def lists(self) -> list[LatentList]:
        """Return all named lists, without their latents."""
        return await self._send(requests.lists(self.url))

    async def latent_list(self, list_id: str) -> LatentList:
        """Return a list with its latents."""
        return await self._send(requests.latent_list(self.url, list_id))

    async def create_list(self, name: str, description: str = "", test_text: str = "") -> LatentList:
        """Make an empty list."""
        return await self._send(requests.create_list(self.url, name, description, test_text))

    async def delete_list(self, list_id: str) -> None:
        """Delete a list."""
        return await self._send(requests.delete_list(list_id))

    async def add_to_list(self, list_id: str, sae: str, latent: int, note: str | None = None) -> LatentList:
        """Add a latent to a list, or change its note (None: unchanged)."""
        return await self._send(requests.add_to_list(self.url, list_id, sae, latent, note))

    async def remove_from_list(self, list_id: str, sae: str, latent: int) -> LatentList:
        """Remove a latent from a list."""
        return await self._send(requests.remove_from_list(self.url, list_id, sae, latent))

    async def list_on_text(self, list_id: str, text: str = "") -> list[LatentOnText]:
        """Run a text, or the list's own test text, through every latent of a list."""
        return await self._send(requests.list_on_text(list_id, text))
