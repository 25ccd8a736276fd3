"""Tests of comments, stars, lists and the search by a text by both clients, against a running server."""

from __future__ import annotations

import asyncio

import pytest

from sae.client import AsyncClient, Client, SaescopeError
from tests.unit.sae.client.conftest import SAE, Served

TEXT = "def read(self):"


def test_a_list_is_made_filled_tested_and_deleted(served: Served) -> None:
    with Client(served.url, served.token) as client:
        made = client.create_list("receivers", "about self", TEXT)
        assert made.url == f"{served.url}/lists/{made.id}"
        client.add_to_list(made.id, SAE, 39, "first")
        filled = client.add_to_list(made.id, SAE, 5)
        assert [(one.latent, one.note) for one in filled.latents] == [(39, "first"), (5, "")]
        assert list(filled.to_frame().columns) == ["sae", "latent", "label", "note", "author", "added"]
        rows = client.list_on_text(made.id)
        assert [one.latent for one in rows] == [39, 5]
        assert "".join(rows[0].tokens[1:]) == TEXT
        assert max(rows[0].acts[1:]) == rows[0].max
        assert [one.n for one in client.lists() if one.id == made.id] == [2]
        assert [one.latent for one in client.remove_from_list(made.id, SAE, 39).latents] == [5]
        client.delete_list(made.id)
        with pytest.raises(SaescopeError) as caught:
            client.latent_list(made.id)
        assert caught.value.status == 404


def test_comments_stars_and_a_text_over_all_saes(served: Served) -> None:
    with Client(served.url, served.token) as client:
        written = client.comment(SAE, 5, "seen")
        assert client.comments(SAE, 5)[-1] == written
        client.star(SAE, 5)
        assert 5 in client.stars(SAE)
        client.star(SAE, 5, on=False)
        assert 5 not in client.stars(SAE)
        found = client.search_text(TEXT, rank="surprise", top=3)
        assert len(found) == 3
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        assert found[0].score == found[0].surprise


def test_the_awaited_client_does_the_same(served: Served) -> None:
    async def talk() -> None:
        async with AsyncClient(served.url, served.token) as client:
            made = await client.create_list("awaited")
            await client.add_to_list(made.id, SAE, 3)
            assert [one.latent for one in (await client.latent_list(made.id)).latents] == [3]
            assert len(await client.list_on_text(made.id, TEXT)) == 1
            assert made.id in [one.id for one in await client.lists()]
            await client.remove_from_list(made.id, SAE, 3)
            await client.delete_list(made.id)
            await client.comment(SAE, 4, "seen")
            assert [one.text for one in await client.comments(SAE, 4)] == ["seen"]
            await client.star(SAE, 4)
            assert 4 in await client.stars(SAE)
            await client.star(SAE, 4, on=False)
            assert await client.search_text(TEXT, SAE, dense=True, top=2)

    asyncio.run(talk())
