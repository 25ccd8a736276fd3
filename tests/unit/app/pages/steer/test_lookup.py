"""Tests of the lookups of the steering form: latents, maxima, examples."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.db.tables import Inspection, Sae
from app.main import create_app
from app.pages.steer.form import Chip, Form
from app.pages.steer.lookup import Sources
from app.render.token_text import token_label
from app.settings import Settings
from sae.steering.text_measures import concept_tokens
from sae.store.build import Build
from tests.unit.app.conftest import write_sae
from tests.unit.app.pages.steer.lab import OTHER, SAE


def test_the_best_sae_is_the_first_choice_not_the_newest(home: Path) -> None:
    settings = Settings(home=home.parent / "choice", demo=False, database_url="")
    for sae_id, fvu, created in ((SAE, 0.1, 1e9), (OTHER, 0.5, 2e9)):
        write_sae(settings.workspace, sae_id, n_latents=60, metrics={"fvu": fvu}, created=created)
        shutil.copytree(home / "builds" / sae_id, settings.home / "builds" / sae_id)
    with TestClient(create_app(settings, supervise=False)) as program:
        assert program.app.state.catalog.list_saes()[0].id == OTHER  # type: ignore[attr-defined]
        assert program.get("/steer.json").json()["latents"][0]["sae"] == SAE
        assert program.get("/inspect.json").json()["sae"] == SAE


# ---- without a page


@pytest.fixture
def sources(program: TestClient) -> Iterator[Sources]:
    state = program.app.state  # type: ignore[attr-defined]
    with state.sessions() as db:
        yield Sources(state.catalog, state.builds, db)


@pytest.fixture
def build(program: TestClient) -> Iterator[Build]:
    with program.app.state.builds.use(SAE, "build-1") as build:  # type: ignore[attr-defined]
        yield build


def test_a_latents_maximum_and_tokens_are_those_of_the_build(sources: Sources, build: Build) -> None:
    one = Chip(SAE, " 2 ")
    sources.look_up(Form(chips=[one]))
    latent = build.latent(2)
    assert latent is not None
    assert (one.max_act, one.errors) == (latent.max_act, {})
    assert one.label == token_label(build.vocabulary[latent.top_tokens[0].token])
    assert one.promotes == [token_label(build.vocabulary[token]) for token, _ in latent.logit_pos[:4]]
    assert one.facts is not None
    assert (one.facts.layer, one.facts.n_latents, one.facts.build, one.facts.median_norm) == (2, 60, "build-1", 21.5)


@pytest.mark.parametrize(("sae", "latent", "words"), [
    (SAE, "60", "60 latents, 0 to 59; there is no 60"), (SAE, "", "there is no latent without a number"),
    (SAE, "x" * 50, "there is no " + "x" * 20), ("demo/none", "1", "there is no SAE 'demo/none'"),
    ("", "1", "no SAE ''")])
def test_what_is_not_found_is_said_at_the_latent(sources: Sources, sae: str, latent: str, words: str) -> None:
    one = Chip(sae, latent)
    sources.look_up(Form(chips=[one]))
    assert one.errors["latent"].endswith(words) or words in one.errors["latent"]
    assert one.max_act is None


def test_saes_that_cannot_steer_say_why(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"demo/board": Sae(id="demo/board", config={"weights": "none"}, current_build="b"),
            "demo/new": Sae(id="demo/new", config={}, current_build=None)}
    monkeypatch.setattr(sources._catalog, "get_sae", rows.get)
    chips = [Chip(sae_id, "1") for sae_id in rows]
    sources.look_up(Form(chips=chips))
    assert "without weights" in chips[0].errors["latent"]
    assert "no index yet" in chips[1].errors["latent"]
    assert [sources.sae(sae_id) for sae_id in ("", *rows)] == [None, None, None]


def test_completing_fills_only_what_is_empty(sources: Sources) -> None:
    form = Form("kept", [Chip(SAE, "2", strength="9"), Chip(SAE, "4")])
    sources.complete(form)
    assert (form.prompt, form.chips[0].strength) == ("kept", "9")
    assert float(form.chips[1].strength) > 0
    empty = Form(chips=[Chip(SAE, "2")])
    sources.complete(empty)
    assert empty.prompt.startswith("def ")


def test_naming_changes_nothing_but_tokens(sources: Sources) -> None:
    gone, known = Chip("demo/none", "2", strength="3"), Chip(SAE, "2", strength="3", max_act=7.0)
    sources.name(Form(chips=[gone, known]))
    assert (gone.label, gone.errors) == ("", {"latent": "there is no SAE 'demo/none' here"})
    assert known.label
    assert (known.max_act, known.strength, known.facts) == (7.0, "3", None)


def test_an_example_is_an_alive_latent_of_the_asked_sae(sources: Sources, build: Build) -> None:
    form = sources.example(OTHER)
    assert [one.sae for one in form.chips] == [OTHER]
    assert form.chips[0].max_act
    assert sources.example("demo/none").chips == []
    assert sources.example(None).chips[0].sae in {sae.id for sae in sources.steerable()}


def test_a_concept_is_the_tokens_of_the_latent(sources: Sources, build: Build) -> None:
    latent = build.latent(2)
    assert latent is not None
    assert sources.concept(Chip(SAE, "2")) == concept_tokens(latent) != ()
    for one in (Chip(SAE, "60"), Chip(SAE, "x"), Chip("demo/none", "2")):
        assert sources.concept(one) == ()


def test_a_foreign_model_continues_a_text_of_the_index(sources: Sources) -> None:
    found = sources.sae("chatty/2-one")
    assert found is not None
    form = Form(chips=[Chip("chatty/2-one", "2")])
    sources.look_up(form)
    assert form.facts is not None
    assert len(sources.prompt(form.facts)) > 3
    assert sources.can_chat(found)
    assert not sources.can_chat(Sae(id="x/y", config={"model": {"name": "/nowhere/at/all"}}))


def test_an_inspected_text_is_found_by_its_id(sources: Sources) -> None:
    sources.db.add(Inspection(id="inspect-1", request={"texts": ["first", "second"], "saes": [SAE]}))
    sources.db.flush()
    assert sources.inspected_text("inspect-1") == "first"
    assert sources.inspected_text("inspect-2") == sources.inspected_text("x" * 500) == ""
