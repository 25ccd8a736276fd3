"""The words of the pages: each term that a review replaced stays away."""

from __future__ import annotations

import re

from app.resources import STATIC, TEMPLATES

REPLACED = (
    "the columns' heads", "company φ", "adds to the output", "label or note holds", "Also tokens that hold",
    "No token of the vocabulary holds", "living", "labels as a file", "Read a file in", "its tokens have",
    "one a distinct window", "Same direction", "Same reading", "Fire together", "Logits it ", "ΔCE from there on",
    "largest random", "whole axis", "Read any text with the model", "◀ before", "after ▶", "Lay others over",
    "it says nothing, so", "How good it is", "Told by a short rule", "it speaks for few", "Sampling and where",
    "likeliest", "texts a column", "one string a line", "may break past", "by itself", "at work", "draw</",
    "what might have stood", "this begins", "Steer with the chosen", "dense latents too", "Start something",
    "Runs going or waiting", "Browsers signed in", "build anew", "set a new password here", "Resuming goes on",
    "What to explain", "Settings of single architectures", "Ce tokens", "Where the file is silent",
    "do not belong together", "That input cannot be used", "Not a number of any latent")


def test_replaced_words_stay_away() -> None:
    files = [*TEMPLATES.rglob("*.html"), *(STATIC / "js").glob("*.js")]
    assert len(files) > 80
    for path in files:
        text = re.sub(r"\{#.*?#\}|<!--.*?-->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert [words for words in REPLACED if words in text] == [], path.name
