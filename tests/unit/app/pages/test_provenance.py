"""Tests of provenance: on every page, and in words."""

from __future__ import annotations

from fastapi.testclient import TestClient

from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.html import page, text_of


def test_provenance_stands_on_every_page(browsable: TestClient) -> None:
    for url in ("", "/latents", "/4", "/7", "/tokens", "/tokens/0/3"):
        words = text_of(page(browsable, f"/{BATCH}{url}"))
        for said in ("blocks.2.hook_resid_post", "BOS not counted", "build index-1", "how was this computed?"):
            assert said in words, (url, said)
