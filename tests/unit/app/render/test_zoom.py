"""Tests of the zoomed range of a chart."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

from tests.unit.app.conftest import BATCH


@pytest.mark.parametrize(("part", "path"), [("acts", "/9"), ("logits", "/9"), ("l0", "/tokens")])
def test_a_stretch_of_a_chart(browsable: TestClient, part: str, path: str) -> None:
    whole = browsable.get(f"/{BATCH}{path}?window=long").text
    figure = whole[whole.index(f'id="{part}"'):]
    low, high = (float(re.findall(rf'data-{end}="([^"]+)"', figure)[0]) for end in ("low", "high"))
    middle = low + (high - low) / 2
    asked = f"/{BATCH}{path}?window=long&{part}={low}&{part}={middle}"
    chart = browsable.get(asked, headers={"HX-Request": "true", "HX-Target": part}).text
    assert chart.startswith("<figure")
    found = float(re.findall(r'data-high="([^"]+)"', chart)[0])
    assert middle <= found < high
    assert 0 < chart.count("<rect class=\"c-bar") < figure[: figure.index("</figure>")].count("<rect class=\"c-bar")
    assert '<input type="hidden" name="window" value="long">' in chart, "what else the address says is kept"
    assert chart[:200] in browsable.get(asked).text, "the whole page shows it, too"
    for nonsense in (f"{part}=x&{part}=1", f"{part}=1", f"{part}=nan&{part}=2", f"{part}=3&{part}=3"):
        page = browsable.get(f"/{BATCH}{path}?{nonsense}").text
        assert f'data-high="{high:.6g}"' in page
