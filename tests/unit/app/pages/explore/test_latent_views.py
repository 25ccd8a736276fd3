"""Tests of the parts of the latent table and of a latent's page."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from sae.store.schema import NEAR_BAND
from tests.builds import Synthetic
from tests.unit.app.conftest import BATCH


def test_near_misses_have_a_band_of_their_own(browsable: TestClient, made: dict[str, Synthetic]) -> None:
    with browsable.app.state.builds.use(BATCH, made[BATCH].path.stem) as build:  # type: ignore[attr-defined]
        some = build.contexts(9)[0]
    context = replace(some, band=NEAR_BAND, act=0.125, acts=[0.0] * len(some.tokens))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sae.store.build.Build.windows", lambda *_: [context])
        patch.setitem(build.meta, "near", 0.1)
        page = browsable.get(f"/{BATCH}/9").text
    band = page[page.index("Near misses"):].partition("</ol>")[0]
    assert "within 10% of the threshold" in band
    assert "0.12" in band
    assert band.count(' peak"') == 1
