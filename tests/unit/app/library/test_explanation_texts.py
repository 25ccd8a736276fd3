"""Tests of the explanations in memory: what a search finds in any language, and that every change is seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from app.db.engine import SessionFactory
from app.db.tables import Label, LatentExplanation
from app.library import comments, labels
from app.library.explanation_texts import COMMENT, NOTE, TAG, Texts, excerpt, notes_of, texts_of

SAE, OTHER = "demo/one", "demo/two"
_TEXT = st.text(st.sampled_from("aAbßé 字_."), max_size=6)


def texts(*said: str) -> Texts:
    return Texts([(latent, one, "") for latent, one in enumerate(said)])


@pytest.mark.parametrize(("said", "text"), [
    ("Python exceptions", "PYTHON"), ("raise ValueError(…)", "ValueError("), ("der große Fluss", "GROSSE"),
    ("日本語の文字", "本語"), ("Ünïcode", "u\u0308n"), ("__init__(self)", "_init_"), ("100% sure", "0%"),
    ("words in another order", "order words")])
def test_any_piece_of_any_language_is_found(said: str, text: str) -> None:
    assert [one.text for one in texts("nothing", said, "else").search(text, 10)] == [said]


def test_a_whole_text_comes_before_a_part_and_apart_words_come_last() -> None:
    found = texts("value of an error", "an error value in a long text", "error value").search("error value", 10)
    assert [one.latent for one in found] == [2, 1, 0]
    assert found[0].share == 1.0
    assert found[2].share <= 0.5
    assert texts("error").search("  ", 10) == texts("error").search("\0", 10) == []


@given(st.lists(_TEXT), _TEXT)
def test_the_same_is_found_as_by_reading_every_text(said: list[str], text: str) -> None:
    words = text.casefold().split()
    by_hand = [i for i, one in enumerate(said) if words and all(word in one.casefold() for word in words)]
    found = texts(*said).search(text, 10**6)
    assert sorted(one.latent for one in found) == by_hand
    assert all(0 < one.share <= 1 for one in found)


def test_every_change_is_seen_and_other_saes_stay(sessions: SessionFactory) -> None:
    def said(db: object) -> list[str]:
        found = texts_of(db, [SAE, OTHER])  # type: ignore[arg-type]
        return [text for sae in (SAE, OTHER) if sae in found for _, text, _ in found[sae].rows]

    rows = [LatentExplanation(sae_id=sae, id=f"e{sae}", latent=3, text="first", kind="model") for sae in (SAE, OTHER)]
    with sessions() as db, sessions() as reader:
        assert said(reader) == []
        db.add_all(rows)
        db.commit()
        reader.commit()
        assert said(reader) == ["first", "first"]
        kept = texts_of(reader, [OTHER])[OTHER]
        db.execute(update(LatentExplanation).where(LatentExplanation.sae_id == SAE).values(text="second"))
        db.commit()
        reader.commit()
        assert said(reader) == ["second", "first"]
        assert texts_of(reader, [OTHER])[OTHER] is kept
        db.execute(update(LatentExplanation).where(LatentExplanation.sae_id == SAE).values(sae_id=OTHER, id="moved"))
        db.commit()
        reader.commit()
        assert sorted(said(reader)) == ["first", "second"]
        db.execute(delete(LatentExplanation))
        db.commit()
        reader.commit()
        assert said(reader) == []


def test_notes_tags_and_comments_are_texts_of_their_own(sessions: SessionFactory) -> None:
    def rows(db: Session) -> list[tuple[int, str, str]]:
        return [row for texts in notes_of(db, [SAE, OTHER]).values() for row in texts.rows]

    with sessions() as db, sessions() as reader:
        labels.save(db, SAE, 9, "ada", text="a label", note="Größe", tags="b, a")
        labels.save(db, SAE, 4, "ada", text="only a label")
        assert rows(reader) == [(9, "a", TAG), (9, "b", TAG), (9, "Größe", NOTE)]
        said = comments.write(db, SAE, 2, "seen in tests", "bob")
        reader.commit()
        assert rows(reader)[-2:] == [(2, "seen in tests", COMMENT), (9, "Größe", NOTE)]
        assert [one.latent for one in notes_of(reader, [SAE])[SAE].search("GRÖSSE", 10)] == [9]
        comments.remove(db, said)
        labels.save(db, SAE, 9, "ada", note="", tags="a")
        reader.commit()
        assert rows(reader) == [(9, "a", TAG)]
        db.execute(update(Label).where(Label.sae_id == SAE).values(sae_id=OTHER))
        db.commit()
        reader.commit()
        assert rows(reader) == [(9, "a", TAG)]
        assert SAE not in notes_of(reader, [SAE])
        db.execute(delete(Label))
        db.commit()
        reader.commit()
        assert rows(reader) == []


def test_labels_come_before_a_limit(sessions: SessionFactory) -> None:
    with sessions() as db:
        db.add_all(LatentExplanation(sae_id=SAE, id=str(i), latent=i, text="a word", kind="model") for i in range(9))
        labels.save(db, SAE, 70, "ada", text="word")
        found = texts_of(db, [SAE])[SAE].search("word", 3)
        assert (found[0].latent, found[0].share) == (70, 1.0)


def test_an_excerpt_is_cut_around_what_was_searched() -> None:
    long = "before " * 50 + "the Needle here" + " after" * 50
    assert "the Needle here" in excerpt(long, "needle")
    assert excerpt(long, "needle").startswith("…")
    assert excerpt(long, "needle").endswith("…")
    assert "the Needle here" in excerpt(long, "needle after nothing")
    assert excerpt("short", "x") == "short"
    assert excerpt(long, "nowhere").startswith("before")
