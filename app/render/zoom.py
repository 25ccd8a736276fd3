"""The zoomed range of a chart's x axis, in the address of the page: `?acts=0.5&acts=4`.

The form below a chart takes the range as two numbers.  With JavaScript, a drag over the bars fills it in
and only the chart is fetched again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from fastapi import Request
from markupsafe import Markup, escape


@dataclass(frozen=True)
class Zoom:
    """A range of the axis from `low` to `high`, both None for the whole axis.

    `name` is the parameter and the id of the element with the chart.  `others` are the further parameters of the page
    at `path`, which a zoom must keep.
    """

    name: str
    path: str
    others: tuple[tuple[str, str], ...] = ()
    low: float | None = None
    high: float | None = None

    @classmethod
    def read(cls, request: Request, name: str) -> Zoom:
        """Read the range from a request's query; an invalid range means the whole axis."""
        params = request.query_params
        whole = cls(name, request.url.path, tuple((k, v) for k, v in params.multi_items() if k != name))
        try:
            low, high = sorted(map(float, params.getlist(name)))
        except ValueError:
            return whole
        return replace(whole, low=low, high=high) if math.isfinite(high - low) and low < high else whole

    def form(self, low: float, high: float) -> Markup:
        """Return the form, filled with the ends of the drawn axis."""
        hidden = "".join(f'<input type="hidden" name="{escape(key)}" value="{escape(value)}">'
                         for key, value in self.others)
        ends = "".join(
            f'<label>{word} <input type="number" step="any" name="{self.name}" value="{value:.4g}"></label>'
            for word, value in (("from", low), ("to", high)))
        whole = "" if self.low is None else f'<button form="{self.name}-whole">reset</button>'
        path = escape(self.path)
        aim = (f'method="get" action="{path}" hx-get="{path}" hx-target="#{self.name}" hx-swap="innerHTML"'
               ' hx-push-url="true"')
        return Markup(
            f'<details class="zoom"{"" if self.low is None else " open"}><summary>zoom (or drag)</summary>'
            f'<form class="row" {aim}>{hidden}{ends}<button>Zoom</button>{whole}</form>'
            f'<form id="{self.name}-whole" {aim}>{hidden}</form></details>')
