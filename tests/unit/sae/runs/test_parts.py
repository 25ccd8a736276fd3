"""Tests of the parts of a run: which run they belong to, and how its work is divided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.errors import UserError
from sae.runs.folder import RunFolder
from sae.runs.parts import divide, parent_of
from sae.specs.registry import PARTED, SPECS, PartSpec, n_parts, part_kind
from sae.workspace.paths import Workspace


def test_a_part_belongs_to_a_run_of_its_kind(workspace: Workspace) -> None:
    RunFolder(workspace.run("index-1")).create("index", {"sae": "demo/x", "shards": 2})
    RunFolder(workspace.run("train-1")).create("train", {})
    folder, spec = parent_of(PartSpec(run="index-1", part=2), "index", workspace)
    assert (folder.id, getattr(spec, "shards", 0)) == ("index-1", 2)
    for run, part, words in (("index-2", 1, "there is no run"), ("train-1", 1, "not a run of the kind index"),
                             ("index-1", 3, "has 2 parts")):
        with pytest.raises(UserError, match=words) as error:
            parent_of(PartSpec(run=run, part=part), "index", workspace)
        assert error.value.field in ("run", "part")


@pytest.mark.parametrize("kind", sorted(PARTED))
def test_every_divided_kind_has_parts_and_a_setting(kind: str) -> None:
    assert SPECS[part_kind(kind)] is PartSpec
    assert n_parts(kind, {PARTED[kind]: 3}) == 3
    assert n_parts(kind, {}) == n_parts("train", {"shards": 3}) == 1
    assert SPECS[kind].model_fields[PARTED[kind]].default == 1


@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 32.0]), max_size=20), st.integers(1, 8))
def test_parts_cover_everything_once_in_order(costs: list[float], n: int) -> None:
    parts = divide(costs, n)
    assert len(parts) == n
    assert [i for part in parts for i in part] == list(range(len(costs)))
    assert min(map(len, parts)) > 0 or len(costs) < n


def test_parts_have_about_the_same_cost() -> None:
    assert divide([1, 1, 1, 32, 32, 32], 2) == [range(4), range(4, 6)]
    assert divide([1.0] * 6, 3) == [range(2), range(2, 4), range(4, 6)]
    assert divide([1, 1, 32], 3) == [range(1), range(1, 2), range(2, 3)]
