"""Tests of pictures and lists of an SAE as a whole: cards, plots, places to start."""

from __future__ import annotations

import re

import pytest

from app.pages.explore import sae_views
from sae.runs.folder import RunFolder, Status
from sae.store.build import Build
from sae.store.records import RARE_TOKENS, L0Count
from sae.workspace.paths import Workspace
from tests.unit.app.pages.explore.records import sae


def test_metrics_come_in_their_order_without_missing_ones() -> None:
    one = sae(metrics={"dead": 3, "fvu": 0.25, "l0": None, "unknown": 1.0, "tokens": 1000})
    assert [(m.name, m.value, m.form) for m in sae_views.metrics(one)] == [
        ("FVU", 0.25, "number3"), ("Dead, held-out text", 3, "whole"), ("Measured on", 1000, "whole")]
    assert sae_views.metrics(sae()) == []


def test_a_card_without_an_index_has_no_picture() -> None:
    card = sae_views.card(sae(metrics={"fvu": 0.5}, training={"tokens": 2000}), None)
    assert (card.metrics, card.trained, card.sparkline, card.samples) == ({"fvu": 0.5}, 2000, "", [])


def test_a_card_shows_readable_latents_and_where_l0_lies(build: Build) -> None:
    card = sae_views.card(sae(n_latents=160), build)
    assert [row.row.latent for row in card.samples] == sae_views.clear_latents(build)
    top = max(row.l0 for row in build.l0_hist())
    assert f"latents per token, from 0 to {top}" in card.sparkline
    assert card.sparkline.count("<rect") <= 60


def test_clear_latents_fire_often_enough_and_come_once(build: Build) -> None:
    chosen = sae_views.clear_latents(build, 5)
    assert len(set(chosen)) == 5
    rows = {row.latent: row for row in build.some(chosen)}
    assert all(rows[i].n_tokens for i in chosen)
    assert "single_token" in rows[chosen[0]].flags, "this build has no rules"
    assert (rows[chosen[0]].n_tokens or 0) >= RARE_TOKENS


def test_places_to_start_say_why_and_lead_to_their_list(build: Build) -> None:
    starts = {start.name: start for start in sae_views.starts(sae("2-res"), build, 4)}
    rows = {row.latent: row for row in build.some([i for start in starts.values() for i in start.latents])}
    assert all("single_token" in rows[i].flags for i in starts["Fires on one token"].latents)
    assert all("rare" in rows[i].flags for i in starts["Rarest"].latents)
    assert starts["Described by a short rule"].latents == []
    densest = [rows[i].density or 0.0 for i in starts["Densest"].latents]
    assert densest == sorted(densest, reverse=True)
    assert starts["Densest"].href == "/demo/2-res/latents?sort=density&dir=desc"
    assert all(len(start.latents) <= 4 and start.why for start in starts.values())


def test_many_values_are_binned_into_sums() -> None:
    assert sae_views._binned([1, 2, 3, 4, 5], 2) == [6.0, 9.0]
    assert sae_views._binned([1, 2], 60) == [1.0, 2.0]


def counts(*pairs: tuple[int, int]) -> list[L0Count]:
    return [L0Count(l0, n, 0) for l0, n in pairs]


def test_shares_of_tokens_are_of_all_counted_ones() -> None:
    chart = sae_views.l0_chart(counts((3, 1), (5, 3)), sae(k=4), bos_l0=2)
    assert "3: 25% · 1 tokens" in chart
    assert "5: 75% · 3 tokens" in chart
    assert {"k = 4", "BOS: 2 latents"} <= set(re.findall(r'class="c-marker-label"[^>]*>([^<]+)<', chart))
    assert "k = " not in sae_views.l0_chart(counts((3, 1)), sae(k=None), bos_l0=None)


def test_wide_distributions_are_merged() -> None:
    bars = sae_views._shares(counts(*((i, 1) for i in range(1000))))
    assert len(bars) < 170
    assert sum(bar.n for bar in bars) == pytest.approx(1)
    assert bars[1].high - bars[1].low == 7


def test_one_tall_bar_does_not_flatten_another_distribution() -> None:
    flat, tall = counts(*((i, 1) for i in range(10))), counts((5, 10))
    assert sae_views._share_top([sae_views._shares(flat), sae_views._shares(tall)]) == pytest.approx(0.125)
    assert sae_views._share_top([sae_views._shares(tall)]) == pytest.approx(1.25)


def test_the_density_chart_counts_every_latent_once(build: Build) -> None:
    chart = sae_views.density_chart(build)
    found = [int(n) for n in re.findall(r"<title>[^<]*: (\d+)(?: · dead)?</title>", chart)]
    assert sum(found) == build.n_latents
    assert "dead" in chart


def test_plots_of_directions_are_drawn(build: Build) -> None:
    for chart in (sae_views.cosine_chart(build), sae_views.norm_chart(build)):
        assert chart.count('class="c-bar') > 2


def test_the_rows_of_a_run_are_those_of_this_sae(workspace: Workspace) -> None:
    assert sae_views.training_rows(sae(run="../x"), workspace) == []
    assert sae_views.training_rows(sae(run="sweep-1"), workspace) == [], "the folder is gone"
    folder = RunFolder(workspace.run("sweep-1"))
    folder.create("sweep", {})
    for member in (0, 1):
        folder.append_progress({"member": member, "tokens": 10, "fvu": 0.5 - member / 4})
    folder.append_progress({"member": 1, "phase": "index", "tokens": 10})
    folder.write_status(Status(state="succeeded", result={"members": [{"sae": "demo/other"}, {"sae": "demo/one"}]}))
    assert [row["fvu"] for row in sae_views.training_rows(sae(run="sweep-1"), workspace)] == [0.25]
    assert sae_views.training_rows(sae("none", run="sweep-1"), workspace) == []
