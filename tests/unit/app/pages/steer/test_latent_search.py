"""Latents found by their rule; labels and tokens are searched in `test_steer_lab.py`, on a build."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.db.engine import SessionFactory
from app.pages.steer.latent_search import find_latents
from sae.store.records import Rule, Token, Vocabulary


def rule(class_name: str) -> Rule:
    return Rule("class", [], class_name, 0.9, 0.9, 0.9)


@pytest.fixture
def db(sessions: SessionFactory) -> Any:
    with sessions() as db:
        yield db


def test_a_latent_is_found_by_its_rule(db: Session) -> None:
    rows = [SimpleNamespace(latent=n, rule=one) for n, one in enumerate(
        [rule("number"), None, rule("triple_quotes"), Rule("token", [7], None, 0.9, 0.9, 0.9), rule("number")])]
    tokens = Vocabulary([(7, Token(7, b"number", False, 1))])
    build: Any = SimpleNamespace(
        n_latents=5, vocabulary=tokens, find_tokens=lambda text, limit: [], snippets=lambda latents: {},
        latents=lambda sort, descending, filters, limit: SimpleNamespace(rows=rows))
    assert [(one.latent, one.why) for one in find_latents(build, db, "demo/x", "Numbers")] == [
        (0, "fires on numbers"), (4, "fires on numbers")]
    assert [one.latent for one in find_latents(build, db, "demo/x", "triple")] == [2]
    assert find_latents(build, db, "demo/x", " ") == []
