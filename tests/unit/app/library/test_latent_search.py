"""Tests of the search for latents: reasons, their order, and the tokens that a word means."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from app.db.engine import SessionFactory
from app.library import labels, latent_search
from app.library.latent_search import FoundLatent, Reason, search_latents
from sae.store.build import Build
from sae.store.records import Rule
from tests.builds import Synthetic
from tests.unit.app.conftest import BATCH


@pytest.fixture(scope="module")
def build(made: dict[str, Synthetic]) -> Iterator[Build]:
    build = Build.open(made[BATCH].path)
    yield build
    build.close()


@pytest.fixture
def db(sessions: SessionFactory) -> Iterator[Session]:
    with sessions() as db:
        yield db


def test_labels_come_first_the_whole_one_before_parts(db: Session, build: Build) -> None:
    for latent, text, note, tags in ((11, "a call of self", "", ""), (12, "Self", "", ""), (13, "selfish", "", ""),
                                     (17, "", "not self", ""), (19, "", "", "self")):
        labels.save(db, BATCH, latent, "ada", text=text, note=note, tags=tags)
    labels.save(db, "demo/other", 14, "ada", text="self")
    found = search_latents(db, build, BATCH, "self", limit=200)
    bare = [one.latent for one in found if {"label", "tag", "note"} & set(one.reasons)]
    assert set(bare) == {11, 12, 13, 17, 19}
    score = {one.latent: one.reasons for one in found}
    assert score[12]["label"].score > score[13]["label"].score > score[11]["label"].score > score[19]["tag"].score
    assert score[19]["tag"].score > score[17]["note"].score
    assert score[17]["note"].value == "not self"
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert len(search_latents(db, build, BATCH, "self", limit=3)) == 3


def test_a_word_finds_the_latents_that_fire_on_its_tokens(db: Session, build: Build) -> None:
    found = search_latents(db, build, BATCH, "self", limit=1000)
    firing = {one.latent: one for one in found if "fires" in one.reasons}
    assert firing
    for latent, one in firing.items():
        token = one.token
        assert token is not None
        assert build.vocabulary[token].piece.strip() == b"self"
        listed = build.latents("lift", True, token=token, limit=1000).rows
        assert latent in [row.latent for row in listed]
        assert one.reasons["fires"].tokens[0].strip("·") == "self"
        assert "lift" in one.reasons["fires"].value
    assert all(one.token is None for one in found if "fires" not in one.reasons)


def test_only_the_first_words_are_looked_up(db: Session, build: Build) -> None:
    words = ["zzzz"] * latent_search.MAX_WORDS
    assert search_latents(db, build, BATCH, " ".join([*words, "self"])) == []
    assert search_latents(db, build, BATCH, " ".join([*words[1:], "self"])) != []
    assert search_latents(db, build, BATCH, "zzzznowhere") == []


def test_a_words_tokens_are_exact_before_alike_before_those_that_contain_it(build: Build) -> None:
    exact = [token.piece.strip() for token in latent_search._meant(build, "self")]
    assert set(exact) == {b"self"}
    assert {token.piece.strip().lower() for token in latent_search._meant(build, "SELF")} == {b"self"}
    assert len(latent_search._meant(build, "e")) <= 4


@pytest.mark.parametrize(("kind", "floor"), [("token", 2.0), ("class", 2.0), ("previous", 1.0), ("next", 1.0)])
def test_rules_on_the_token_count_more_than_rules_next_to_it(
    db: Session, build: Build, monkeypatch: pytest.MonkeyPatch, kind: str, floor: float
) -> None:
    rule = Rule(kind, [] if kind == "class" else [5], "comment" if kind == "class" else None, 0.9, 0.8, 0.85)
    monkeypatch.setattr(latent_search, "with_rule", lambda *_: [(5, rule)])
    (one,) = [one for one in search_latents(db, build, BATCH, "zzzz") if one.latent == 5]
    assert one.reasons["rule"].score == pytest.approx(floor + 0.85)
    assert one.reasons["rule"].value == "precision 90%, recall 80%"


def test_a_latent_keeps_the_best_reason_of_each_kind() -> None:
    one = FoundLatent(3, {"fires": Reason("fires", 1.5, "fires on", token=7), "label": Reason("label", 4.0, "label")})
    assert one.score == 5.5
    assert [reason.kind for reason in one.best] == ["label", "fires"]
    assert one.token == 7
