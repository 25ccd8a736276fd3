"""Tests of the counts next to the filters: each is the length of the list that its link leads to."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from sqlalchemy.orm import Session

from app.db.engine import SessionFactory
from app.db.tables import LatentExplanation
from app.library import labels
from app.pages.explore.latents_facets import people_counts
from app.pages.explore.latents_query import ListQuery, resolve
from sae.store.build import Build
from sae.store.latent_query import ALIVE
from tests.unit.app.conftest import BATCH

STARRED = frozenset({3, 5, 40})


def write(db: Session) -> None:
    for latent in range(0, 60, 3):
        labels.save(db, BATCH, latent, "ada", text=f"label {latent}", tags="odd" if latent % 2 else "even")
    db.add_all(LatentExplanation(sae_id=BATCH, id=uuid.uuid4().hex, latent=latent, text="a word", kind="model")
               for latent in range(0, 50, 5))
    db.commit()


@pytest.mark.parametrize("query", [
    ListQuery(), ListQuery(flags=frozenset({ALIVE}), density="1e-1"), ListQuery(tag="odd"),
    ListQuery(explained="model"), ListQuery(explained="none", labelled=True), ListQuery(label="1", starred=True),
    ListQuery(token="self", tag="even")])
def test_each_count_is_the_length_of_its_list(build: Build, sessions: SessionFactory, query: ListQuery) -> None:
    with sessions() as db:
        write(db)

        def length(**changes: object) -> int:
            asked = resolve(replace(query, **changes), build, db, BATCH, STARRED)  # type: ignore[arg-type]
            return build.latents(asked.key, asked.descending, asked.filters, asked.token, limit=1).total

        counts = people_counts(build, db, BATCH, resolve(query, build, db, BATCH, STARRED), STARRED)
        assert counts.labelled == length(labelled=True)
        assert counts.starred == length(starred=True)
        assert counts.tags == {tag: length(tag=tag) for tag in ("even", "odd")}
        assert set(counts.explained) >= {"any", "person", "model", "none"}
        assert counts.explained == {key: length(explained=key) for key in counts.explained}


def test_without_explanations_there_is_nothing_to_count(
    build: Build, sessions: SessionFactory, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.pages.explore.latents_facets.well_ruled", lambda build: [False] * build.n_latents)
    with sessions() as db:
        assert people_counts(build, db, BATCH, resolve(ListQuery(), build, db, BATCH), frozenset()).explained == {}
