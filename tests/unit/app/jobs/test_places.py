"""Tests of the choice of a place for a run."""

from __future__ import annotations

import pytest

from app.db.tables import Run
from app.jobs.launchers import Resources
from app.jobs.places import Place, chosen_place, launcher_names, make_clusters, place_of
from app.settings import Settings
from sae.errors import UserError


def test_this_machine_is_the_only_place_unless_the_settings_name_another(settings: Settings) -> None:
    assert launcher_names(settings) == ["local"]
    assert make_clusters(settings) == []
    assert chosen_place(settings, "train", cpus="8") == Place()
    with pytest.raises(UserError, match="launcher: 'ray' is not one of local"):
        chosen_place(settings, "train", "ray")


def test_the_default_place_comes_first() -> None:
    both = Settings.load(launcher="slurm", ray_address="http://head:8265/")
    assert launcher_names(both) == ["slurm", "local", "ray"]
    assert [one.name for one in make_clusters(both)] == ["ray", "slurm"]
    assert chosen_place(both, "index") == Place("slurm", Resources())
    assert chosen_place(both, "train", "ray", gpus="8", nodes=2, cpus="") == Place("ray", Resources(0, 8, 2))


def test_ray_needs_an_address() -> None:
    with pytest.raises(UserError, match="SAESCOPE_RAY_ADDRESS") as error:
        Settings.load(launcher="ray")
    assert error.value.field == "SAESCOPE_LAUNCHER"


@pytest.mark.parametrize(("kind", "asked", "field"), [
    ("train", {"cpus": "many"}, "cpus"), ("train", {"gpus": "17"}, "gpus"), ("train", {"nodes": "0"}, "nodes"),
    ("index", {"gpus": "2"}, "gpus"), ("evaluate", {"nodes": "2"}, "nodes")])
def test_what_cannot_be_asked_for(kind: str, asked: dict[str, str], field: str) -> None:
    settings = Settings.load(slurm=True)
    with pytest.raises(UserError) as error:
        chosen_place(settings, kind, "slurm", **asked)
    assert error.value.field == field


def test_a_place_is_stored_with_its_run() -> None:
    place = Place("ray", Resources(cpus=2, gpus=1))
    assert place_of(Run(**place.columns())) == place
    assert place_of(Run(**Place().columns())) == Place()
