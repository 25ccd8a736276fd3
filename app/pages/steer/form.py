"""The steering form, which keeps everything as it was typed.

The address (`GET /steer?sae=…&latent=3&strength=2`), the form's POST and the buttons for adding and removing latents
without JavaScript use the same field names.  Each latent has one value of `sae`, `latent`, `mode`, `strength`, `target`
and `factor`; a single `sae` applies to all latents.  Every mode has its own number, so changing the mode changes no
number's meaning.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import ImmutableMultiDict

from app.pages.find.phrase import Found
from app.pages.markup_choice import markup_word
from app.web.parameters import whole_number
from sae.errors import UserError
from sae.steering.request import (
    MAX_LATENTS,
    RATIO_STRONG,
    RATIO_WARN,
    Intervention,
    Mode,
    Positions,
    Sampling,
    SteerRequest,
    norm_ratio,
    typical_scale,
)

SLIDER_END = 10.0  # × max activation; the number box takes up to MAX_STRENGTH
_USUAL_SHARE = 0.65  # of the strength at which text often breaks
MAX_CHIPS = 2 * MAX_LATENTS  # more than a run takes, so that a form with a few too many keeps what was typed
POSITIONS: dict[Positions, str] = {
    "all": "prompt and output", "output": "output only", "from": "from a position onward"}
# The field of each mode's own number; the other modes have none.
NUMBERS: dict[Mode, str] = {"add": "strength", "clamp": "target", "scale": "factor"}
MODE_NAMES: dict[Mode, str] = {
    "add": "add", "clamp": "clamp", "scale": "scale", "ablate": "ablate", "remove": "project out"}


@dataclass(frozen=True)
class SaeFacts:
    """Facts about an SAE and its build that the form needs; every run stores them."""

    id: str
    model: str
    layer: int
    n_latents: int
    d_model: int
    normalize: str
    build: str
    median_norm: float
    context_length: int | None = None  # of the SAE's training


@dataclass
class Chip:
    """A latent of the form.  `sae` to `factor` are as typed; the rest is looked up.

    `name` is its name, `label` the token that it fires on most, `promotes` those whose logits it raises most.
    Add adds `strength` and clamp sets `target`, both in units of the latent's maximum.  Scale multiplies by `factor`.
    """

    sae: str
    latent: str
    mode: str = "add"
    strength: str = ""
    target: str = ""
    factor: str = ""
    facts: SaeFacts | None = None
    max_act: float | None = None
    name: str = ""
    label: str = ""
    promotes: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def number(self) -> int | None:
        return whole_number(self.latent)

    def value(self, name: str = "strength") -> float | None:
        """Return one of the latent's fields as a number, or None if it is not a number."""
        return parse_number(getattr(self, name))

    @property
    def unit_ratio(self) -> float:
        """The norm ratio at strength 1; 0 if it is not known."""
        if self.facts is None or not self.max_act:
            return 0.0
        scale = typical_scale(self.facts.normalize, self.facts.median_norm, self.facts.d_model)
        return norm_ratio(self.max_act, scale, self.facts.median_norm) or 0.0

    def coefficient(self, name: str) -> float | None:
        """Return the raw activation that `strength` adds or `target` sets."""
        value = self.value(name)
        return None if value is None or self.max_act is None else value * self.max_act

    def ratio(self, name: str) -> float:
        """Return the norm of the added vector over the median residual norm; for a clamp, on a silent latent."""
        return abs(self.value(name) or 0.0) * self.unit_ratio

    def level(self, name: str) -> str:
        """Return how likely the text is to break: "", "warn" or "strong"."""
        ratio = self.ratio(name)
        return "strong" if ratio >= RATIO_STRONG else "warn" if ratio >= RATIO_WARN else ""

    @property
    def breaks_at(self) -> float | None:
        """The strength at which text often begins to break; None if the slider does not reach it."""
        at = RATIO_WARN / self.unit_ratio if self.unit_ratio else math.inf
        return at if at <= SLIDER_END else None

    def usual(self) -> None:
        """Give empty fields their usual values."""
        strength = self.strength or self._usual_strength()
        self.strength, self.target, self.factor = strength, self.target or strength, self.factor or "0"

    def _usual_strength(self) -> str:
        """Return a strength that tends to show and not yet to break the text, with two digits."""
        at = RATIO_WARN / self.unit_ratio if self.unit_ratio else 1.0
        return f"{min(_USUAL_SHARE * at, 5.0):.2g}"


def slider_position(value: float | None) -> int:
    """Return a number's place on a slider, −100 to 100, finer near zero."""
    value = value or 0.0
    return round(math.copysign(100 * math.sqrt(min(abs(value) / SLIDER_END, 1.0)), value))


@dataclass
class Form:
    """The whole form.  `values` are the settings as typed; `errors` are by field name.

    With `chat` the prompt is a user's message, and `said` holds the earlier messages as (role, content).  `add` is the
    text in the field that adds a latent of `add_sae`; if it is no number, `found` are the latents that it may mean.
    """

    prompt: str = ""
    chips: list[Chip] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    special: bool = False
    control: bool = False
    chat: bool = False
    said: list[tuple[str, str]] = field(default_factory=list)
    add: str = ""
    add_sae: str = ""
    found: Found | None = None
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def has_errors(self) -> bool:
        return bool(self.errors) or any(chip.errors for chip in self.chips)

    @property
    def facts(self) -> SaeFacts | None:
        """The facts of the first SAE that is known."""
        return next((chip.facts for chip in self.chips if chip.facts), None)


def default_values() -> dict[str, str]:
    """Return the settings of an untouched form."""
    return _values(Sampling()) | {
        "positions": "all", "start": "0", "samples": "1", "sweep": "", "sweep_of": "0", "system": "", "markup": ""}


def _values(s: Sampling) -> dict[str, str]:
    return {
        "temperature": f"{s.temperature:g}", "top_p": f"{s.top_p:g}", "top_k": str(s.top_k), "length": str(s.length),
        "seed": str(s.seed), "repetition_penalty": f"{s.repetition_penalty:g}", "stop": stop_lines(s.stop)}


def stop_lines(stops: Iterable[str]) -> str:
    """Return stop strings as the form shows them, one a line."""
    return "\n".join(stop.replace("\\", "\\\\").replace("\n", "\\n") for stop in stops)


def new_seed() -> str:
    return str(secrets.randbelow(10**6))


def read_form(data: ImmutableMultiDict[str, Any]) -> Form:
    """Return what came with an address or a POST, unchecked.

    Raises UserError (`latent`) for more latents than a page can show: each of them is looked up.
    """
    saes, latents = data.getlist("sae"), data.getlist("latent")
    if len(latents) > MAX_CHIPS:
        raise UserError(f"latent: {len(latents):,} latents are given, and at most {MAX_CHIPS} are possible", "latent")

    def nth(name: str, i: int, usual: str) -> str:
        given = data.getlist(name)
        return str(given[i]) if i < len(given) else usual

    chips = [
        Chip(sae=nth("sae", i, str(saes[-1]) if saes else ""), latent=str(latent), mode=nth("mode", i, "add"),
             strength=nth("strength", i, ""), target=nth("target", i, ""), factor=nth("factor", i, ""))
        for i, latent in enumerate(latents)]
    values = {name: _lines(data.get(name, usual)) for name, usual in default_values().items()}
    said = list(zip(map(str, data.getlist("role")), map(_lines, data.getlist("content")), strict=False))
    return Form(_lines(data.get("prompt", "")), chips, values, special=bool(data.get("special")),
                control=bool(data.get("control")), chat=bool(data.get("chat")), said=said,
                add=str(data.get("add", "")).strip(),
                add_sae=str(data.get("add_sae") or (chips[0].sae if chips else "")))


def _lines(value: Any) -> str:
    return str(value).replace("\r\n", "\n")  # browsers send form text with CRLF


def form_of(request: SteerRequest, facts: Mapping[str, SaeFacts]) -> Form:
    """Return the form filled with an earlier request."""
    w = request.where
    values = default_values() | _values(request.sampling) | {
        "positions": w.positions, "start": str(w.start), "samples": str(request.samples),
        "markup": markup_word(request.markup)}
    said: list[tuple[str, str]] = [(message.role, message.content) for message in request.chat]
    if said and said[0][0] == "system":
        values["system"] = said.pop(0)[1]
    form = Form(request.prompt, [_chip(i, facts) for i in request.interventions], values, special=w.special,
                control="control" in request.columns, chat=bool(request.chat))
    if said:
        form.prompt, form.said = said[-1][1], said[:-1]
    return form


def _chip(i: Intervention, facts: Mapping[str, SaeFacts]) -> Chip:
    chip = Chip(sae=i.sae, latent=str(i.latent), mode=i.mode, facts=facts.get(i.sae), max_act=i.max_act)
    if name := NUMBERS.get(i.mode):
        setattr(chip, name, f"{i.strength:g}")
    chip.usual()
    return chip


def parse_number(text: str) -> float | None:
    """Return the text as a finite number, or None."""
    try:
        value = float(text.strip().replace("−", "-"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
