"""The places where runs can be executed, as the settings name them, and what a run asks of its place."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from app.db.tables import Run
from app.jobs.launchers import Launcher, Resources
from app.jobs.launchers.ray import RayLauncher
from app.jobs.launchers.slurm import SlurmLauncher
from app.settings import Settings
from sae.errors import UserError

MULTI_PROCESS = ("train", "sweep")  # kinds of run that use several GPUs or nodes
_MOST = {"cpus": 1024, "gpus": 16, "nodes": 1024}


@dataclass(frozen=True)
class Place:
    """The launcher of a run, and the resources it asks for.  This machine gives a run all that it has."""

    launcher: str = "local"
    resources: Resources = field(default_factory=Resources)

    def columns(self) -> dict[str, Any]:
        """Return the values of the columns of `runs`."""
        return {"launcher": self.launcher, "resources": None if self.launcher == "local" else asdict(self.resources)}


def make_clusters(settings: Settings) -> list[Launcher]:
    """Return a launcher for each cluster that the settings name."""
    shared: dict[str, Any] = {"cpus": settings.cluster_cpus, "python": settings.cluster_python}
    clusters: list[Launcher] = []
    if settings.ray_address:
        clusters.append(RayLauncher(
            settings.workspace, settings.ray_address.rstrip("/"), token=settings.ray_token,
            stop_s=settings.cancel_grace_s, **shared))
    if "slurm" in launcher_names(settings):
        clusters.append(SlurmLauncher(settings.workspace, options=settings.slurm_options, **shared))
    return clusters


def launcher_names(settings: Settings) -> list[str]:
    """Return the names of the launchers that runs may choose, the default first."""
    there = {"local": True, "ray": bool(settings.ray_address), "slurm": settings.slurm or settings.launcher == "slurm"}
    names = [name for name, is_there in there.items() if is_there]
    return sorted(names, key=lambda name: name != settings.launcher)


def chosen_place(settings: Settings, kind: str, launcher: str = "", **asked: str | int) -> Place:
    """Return the place that a person or a program asks for; empty values mean the defaults.

    Raises UserError, whose field is `launcher`, `cpus`, `gpus` or `nodes`.
    """
    names = launcher_names(settings)
    launcher = launcher or names[0]
    if launcher not in names:
        raise UserError(f"launcher: {launcher!r} is not one of {', '.join(names)}", "launcher")
    numbers = {name: _number(name, value) for name, value in asked.items() if value not in ("", None)}
    if launcher == "local":
        return Place()
    resources = Resources(**numbers)
    if kind not in MULTI_PROCESS and (resources.nodes > 1 or resources.gpus > 1):
        name = "nodes" if resources.nodes > 1 else "gpus"
        raise UserError(f"{name}: only {' and '.join(MULTI_PROCESS)} runs use more than one", name)
    return Place(launcher, resources)


def place_of(run: Run) -> Place:
    """Return the place that a run was queued for."""
    return Place(run.launcher, Resources(**(run.resources or {})))


def _number(name: str, value: str | int) -> int:
    least = 0 if name != "nodes" else 1
    try:
        number = int(value)
    except ValueError:
        number = -1
    if not least <= number <= _MOST[name]:
        raise UserError(f"{name}: {str(value)[:20]!r} is not a whole number from {least} to {_MOST[name]:,}", name)
    return number


def names_of(places: Collection[str]) -> dict[str, str]:
    """Return what a page calls each launcher."""
    titles = {"local": "this machine", "ray": "Ray", "slurm": "Slurm"}
    return {name: titles[name] for name in places}
