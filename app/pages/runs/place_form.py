"""The part of a form that says where a run is executed, and what it asks of a cluster.

It is shown only if the settings name a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.jobs.places import MULTI_PROCESS, Place, chosen_place, launcher_names
from app.pages.runs.spec_form import FormField, FormGroup
from app.settings import Settings

FIELDS = ("launcher", "cpus", "gpus", "nodes")


def read_place(form: Mapping[str, Any]) -> dict[str, str]:
    """Return what was typed in this part of the form."""
    return {name: str(form[name]).strip() for name in FIELDS if form.get(name)}


def place_from(settings: Settings, kind: str, typed: Mapping[str, str]) -> Place:
    """Return the place that was asked for.  Raises UserError, whose field is one of `FIELDS`."""
    return chosen_place(settings, kind, **typed)


def place_group(settings: Settings, kind: str, typed: Mapping[str, str], errors: Mapping[str, str]) -> FormGroup | None:
    """Return the part of the form, or None if runs can be executed on this machine alone."""
    names = launcher_names(settings)
    if len(names) == 1:
        return None
    fields = [
        _field("launcher", "Place", names[0], "Where the run is executed: local is this machine", typed, errors,
               choices=tuple(names)),
        _field("cpus", "CPUs", str(settings.cluster_cpus), "CPUs asked of the cluster, on each node", typed, errors)]
    if kind in MULTI_PROCESS:
        fields += [
            _field("gpus", "GPUs", "0", "GPUs asked of the cluster, on each node; each is used by a process of its own",
                   typed, errors),
            _field("nodes", "Nodes", "1", "Nodes that train together", typed, errors)]
    else:
        fields.append(_field("gpus", "GPUs", "0", "GPUs asked of the cluster, at most one", typed, errors))
    return FormGroup("Where it runs", fields, open=True)


def _field(
    name: str, label: str, default: str, description: str, typed: Mapping[str, str], errors: Mapping[str, str],
    choices: tuple[str, ...] = (),
) -> FormField:
    return FormField(
        name=name, label=label, kind="choice" if choices else "number",
        value=typed.get(name, default if choices else ""),
        default=default, description=description, unit="", why="", choices=choices, range="",
        error=errors.get(name, ""))
