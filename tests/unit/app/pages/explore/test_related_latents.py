"""Tests of the other latents that a latent's page names."""

from __future__ import annotations

from app.library.explanations import Name
from app.pages.explore.related_latents import related_latents, relations
from sae.store.build import Build
from sae.store.records import CofiringLatent
from tests.unit.app.pages.explore.records import latent

ONE = latent(
    neighbours=[(4, 0.75), (9, 0.5)], encoder_neighbours=[(4, -0.125)],
    together=[CofiringLatent(11, 0.5, 12.0, 0.25, (0.38, 0.62))], implied_by=[CofiringLatent(2, 0.95, 3.0, 0.5)])


def test_every_named_latent_is_looked_up_once() -> None:
    assert related_latents(ONE) == [2, 4, 9, 11]
    assert related_latents(latent()) == []


def test_a_table_for_each_relation_that_is_known(build: Build) -> None:
    found = {one.key: one for one in relations(build, ONE, {4: Name("closes", "person")})}
    assert list(found) == ["decoder", "encoder", "together", "implied_by"]
    assert [(row.latent, row.values, row.label) for row in found["decoder"].rows] == [
        (4, ["0.750"], "closes"), (9, ["0.500"], "")]
    assert found["encoder"].rows[0].values == ["−0.125"]
    assert found["together"].rows[0].values == ["50%", "0.25", "12.0×"]
    assert found["together"].rows[0].intervals == ["38%–62%", "0.18–0.32", "9.1–14.9"]
    assert found["implied_by"].rows[0].intervals == ["", "", ""]
    assert found["implied_by"].rows[0].values == ["95%", "0.50", "3.0×"]
    for one in found.values():
        assert all(len(row.values) == len(one.columns) for row in one.rows)
    assert found["decoder"].rows[0].snippet is not None
    assert relations(build, latent(), {}) == []


def test_an_estimate_is_called_one(build: Build) -> None:
    assert "estimated" not in "".join(one.said for one in relations(build, ONE, {}))
    build.meta["company_tokens"] = 512
    try:
        said = {one.key: one.said for one in relations(build, ONE, {})}
    finally:
        del build.meta["company_tokens"]
    assert "more than 512 firings" in said["together"]
    assert "512" not in said["decoder"]
