"""Explanations in the database: the shown name, labels, the mirror of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, select, text

from app.db.engine import SessionFactory, alembic_config, upgrade
from app.db.tables import LatentExplanation
from app.jobs import sae_changes
from app.library import explanations, labels
from app.library.catalog import Catalog
from app.library.explanation_texts import LABEL
from app.render.latent_words import RuleWords
from sae.errors import UserError
from sae.explain import results
from sae.explain.records import Explanation, Score
from sae.store.records import Rule
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae

SAE = "demo/2-res-batchtopk-4k"
RULE = RuleWords("fires on", ["·raise"], Rule("token", [3], None, 0.9, 0.8, 0.85))
WEAK = RuleWords("fires on", ["·x"], Rule("token", [4], None, 0.2, 0.2, 0.2))


def made(text: str, latent: int = 3, kind: str = "model", **values: Any) -> Explanation:
    return Explanation(latent, text, kind, run="run", model=text, **values)


def scored(explanation: Explanation, scorer: str, f1: float) -> Score:
    return Score(explanation.latent, scorer, f1, 20, explanation.id, f1=f1)


@pytest.fixture
def folder(workspace: Workspace, catalog: Catalog, engine: Engine) -> Path:
    write_sae(workspace)
    catalog.sync()
    return workspace.sae(SAE)


def shown(sessions: SessionFactory, latent: int = 3) -> tuple[str, str] | None:
    with sessions() as db:
        name = explanations.names(db, SAE, [latent], {latent: RULE}).get(latent)
    return None if name is None else (name.text, name.kind)


def test_the_name_is_the_chosen_then_the_best_scored_then_the_rule(
    folder: Path, catalog: Catalog, sessions: SessionFactory
) -> None:
    assert shown(sessions) == ("fires on ·raise", "rule")
    weak, strong, unscored = made("weak"), made("strong"), made("unscored")
    results.append(folder, [weak, unscored, scored(weak, "detection", 0.6)])
    assert catalog.sync_if_changed()
    assert shown(sessions) == ("weak", "model")
    results.append(folder, [strong, scored(strong, "detection", 0.9), scored(weak, "rule", 1.0)])
    assert catalog.sync_if_changed()
    assert not catalog.sync_if_changed()
    assert shown(sessions) == ("strong", "model")  # detection tells more than a rule's own F1
    with sessions() as db:
        assert explanations.choose(db, SAE, 3, unscored.id)
        db.commit()
    assert shown(sessions) == ("unscored", "model")
    with sessions() as db:
        assert explanations.choose(db, SAE, 3, unscored.id)  # the choice is taken back
        assert not explanations.choose(db, SAE, 4, unscored.id)
        assert not explanations.choose(db, SAE, 3, "none")
        db.commit()
    assert shown(sessions) == ("strong", "model")
    with sessions() as db:
        assert explanations.names(db, SAE, [5], {5: WEAK}) == {}
        assert [one.row.text for one in explanations.of_latents(db, SAE, [3])[3]] == ["strong", "weak", "unscored"]


def test_a_label_is_its_authors_chosen_explanation(folder: Path, catalog: Catalog, sessions: SessionFactory) -> None:
    best = made("best")
    results.append(folder, [best, scored(best, "detection", 1.0)])
    catalog.sync()
    with sessions() as db:
        labels.save(db, SAE, 3, "ada", text="the keyword raise")
        assert shown(sessions) == ("the keyword raise", "person")
        [one] = [one for one in explanations.of_latents(db, SAE, [3])[3] if one.row.method == LABEL]
        assert (one.row.author, one.row.chosen) == ("ada", True)
        explanations.choose(db, SAE, 3, best.id)
        db.commit()
        assert shown(sessions) == ("best", "model")
        labels.save(db, SAE, 3, "bob", note="only a note")
        assert shown(sessions) == ("best", "model")
        labels.save(db, SAE, 3, "bob", text="raise")  # whoever writes a label wants it shown
        assert shown(sessions) == ("raise", "person")
        labels.save(db, SAE, 3, "bob", text="")
        assert shown(sessions) == ("best", "model")
        assert len(explanations.of_latents(db, SAE, [3])[3]) == 1


def test_people_write_explanations(folder: Path, sessions: SessionFactory) -> None:
    with sessions() as db:
        first = explanations.write(db, SAE, 3, "  the  keyword\nraise ", "ada")
        db.flush()
        second = explanations.write(db, SAE, 3, "raise", "bob")
        db.commit()
        assert (first.text, first.chosen, second.chosen) == ("the keyword raise", True, False)
        assert not explanations.remove(db, SAE, 3, first.id, "bob")
        assert explanations.remove(db, SAE, 3, first.id, "ada")
        assert explanations.remove(db, SAE, 3, second.id, None)
        db.commit()
        assert explanations.of_latents(db, SAE, [3]) == {}
        for wrong in ("", " \n", "x" * 501):
            with pytest.raises(UserError, match="text: "):
                explanations.write(db, SAE, 3, wrong, "ada")


def test_the_quality_by_kind_and_the_search(folder: Path, catalog: Catalog, sessions: SessionFactory) -> None:
    rule, good, bare = made("by rule", kind="rule"), made("100% raise_"), made("bare", 7)
    results.append(folder, [rule, good, bare, scored(rule, "rule", 0.4), scored(good, "fuzzing", 0.6),
                            scored(good, "detection", 0.8), Score(7, "intruder", 1.0, 6)])
    catalog.sync()
    with sessions() as db:
        assert explanations.qualities(db, SAE) == {3: {"rule": 0.4, "model": 0.8}, 7: {"model": -1.0}}
        for text, found in (("RAISE_", ["100% raise_"]), ("0%", ["100% raise_"]), ("raise_ 100%", ["100% raise_"]),
                            ("e%s", [])):
            assert [one.text for one in explanations.search(db, [SAE], text)[SAE]] == found
        assert [score.scorer for score in explanations.of_latent(db, SAE, 7)[1]] == ["intruder"]


def test_they_go_where_the_sae_goes(
    folder: Path, workspace: Workspace, catalog: Catalog, sessions: SessionFactory
) -> None:
    results.append(folder, [made("one")])
    catalog.sync()
    with sessions() as db:
        new = sae_changes.rename_sae(db, workspace, SAE, "other")
        catalog.sync()
        assert {row.sae_id for row in db.scalars(select(LatentExplanation))} == {new}
        assert results.read(workspace.sae(new))[0]
        sae_changes.delete_sae(db, workspace, new)
        assert list(db.scalars(select(LatentExplanation))) == []


def test_labels_of_an_older_database_become_explanations(engine: Engine, sessions: SessionFactory) -> None:
    command.downgrade(alembic_config(engine), "0007")
    with engine.begin() as connection:
        for latent, label in ((3, "the keyword raise"), (4, "")):
            connection.execute(text(
                "INSERT INTO labels (sae_id, latent, text, starred, note, tags, author, updated, version)"
                " VALUES (:sae, :latent, :label, false, '', '', 'ada', 5.0, 1)"),
                {"sae": SAE, "latent": latent, "label": label})
    upgrade(engine)
    with sessions() as db:
        [row] = db.scalars(select(LatentExplanation))
        assert (row.latent, row.text, row.author, row.created, row.chosen, row.kind) == (
            3, "the keyword raise", "ada", 5.0, True, "person")
        assert labels.get(db, SAE, 3).text == "the keyword raise"  # type: ignore[union-attr]
    assert shown(sessions) == ("the keyword raise", "person")
    with sessions() as db:
        labels.save(db, SAE, 3, "bob", text="raise")
        [row] = db.scalars(select(LatentExplanation))
        assert (row.text, row.author) == ("raise", "bob")


def test_texts_are_names_of_all_latents(folder: Path, catalog: Catalog, sessions: SessionFactory) -> None:
    good, better, bare = made("good"), made("better"), made("bare", 7)
    results.append(folder, [good, better, bare, scored(good, "rule", 0.6), scored(better, "detection", 0.8)])
    catalog.sync()
    with sessions() as db:
        assert explanations.texts(db, SAE) == {3: "better"}
        labels.save(db, SAE, 3, "ada", text="chosen")
        labels.save(db, SAE, 9, "ada", text="label")
        assert explanations.texts(db, SAE) == {3: "chosen", 9: "label"}
        names = explanations.names(db, SAE, [3, 7, 9])
        assert {latent: name.text for latent, name in names.items()} == explanations.texts(db, SAE)
