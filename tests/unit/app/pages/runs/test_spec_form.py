"""Tests of the form of a spec: fields, presets, what was typed, messages."""

from __future__ import annotations

import html
import re

from fastapi.testclient import TestClient

from app.pages.runs import spec_form
from sae.specs.registry import SweepSpec


def test_the_papers_grid_is_one_run() -> None:
    grid = spec_form.SWEEPS["paper"][2] | {"model": "demo", "text": "stdlib", "layer": 2}
    assert len(SweepSpec(**grid).members()) == 36


def test_messages_are_in_plain_words(admin: TestClient) -> None:
    page = html.unescape(admin.post("/admin/train", data={"k": "0", "tokens": "x", "lr": "2", "model": ""}).text)
    for words in ("k must be a whole number of 1 or more", "tokens must be a whole number of 1,000 or more",
                  "lr must be a number from 0 to 1", "model must not be empty"):
        assert words in page, words
    assert "Input should" not in page
    page = html.unescape(admin.post("/admin/train", data={"k": "5000"}).text)
    assert "5000 latents per token, but n_latents is 4096" in page
    assert "k: k:" not in re.sub(r"<[^>]*>", "", page)
