"""The steering form: what was typed, kept as it was typed, and the request that it makes.

The same field names serve the address (`GET /steer?sae=…&latent=3&strength=2`), the form's POST
and the buttons that add and remove latents without JavaScript.  Per latent there is one value of
each of `sae`, `latent`, `mode`, `strength` and `factor`; one `sae` alone is meant for all.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import ImmutableMultiDict

from sae.errors import UserError
from sae.models import find_model
from sae.prompts import prompt_length
from sae.steering_spec import (
    MAX_LATENTS,
    MAX_LENGTH,
    MAX_PROMPT_CHARACTERS,
    MAX_SEED,
    MAX_STRENGTH,
    MODES,
    RATIO_STRONG,
    RATIO_WARN,
    Intervention,
    Positions,
    Sampling,
    SteerRequest,
    Where,
    check_room,
    norm_ratio,
    typical_scale,
)

SLIDER_END = 10.0  # × max activation; the number box goes on to MAX_STRENGTH
POSITIONS: dict[Positions, str] = {
    "all": "prompt and output", "output": "output only", "from": "from a position on"}


@dataclass(frozen=True)
class SaeFacts:
    """What the form needs of an SAE and its build; kept with every run."""

    id: str
    model: str
    layer: int
    n_latents: int
    d_model: int
    normalize: str
    build: str
    median_norm: float


@dataclass
class Chip:
    """One latent of the form.  `sae` to `factor` are as typed; the rest is looked up."""

    sae: str
    latent: str
    mode: str = "add"
    strength: str = ""
    factor: str = "0"
    facts: SaeFacts | None = None
    max_act: float | None = None
    label: str = ""
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def number(self) -> int | None:
        text = self.latent.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None

    @property
    def value(self) -> float | None:
        """The strength as a number, or None where it is not one."""
        return _float(self.strength)

    @property
    def unit_ratio(self) -> float:
        """The norm ratio that a strength of 1 has; 0 where it is not known."""
        if self.facts is None or not self.max_act:
            return 0.0
        scale = typical_scale(self.facts.normalize, self.facts.median_norm, self.facts.d_model)
        return norm_ratio(self.max_act, scale, self.facts.median_norm) or 0.0

    @property
    def coefficient(self) -> float | None:
        return None if self.value is None or self.max_act is None else self.value * self.max_act

    @property
    def ratio(self) -> float:
        return abs(self.value or 0.0) * self.unit_ratio

    @property
    def level(self) -> str:
        return "strong" if self.ratio >= RATIO_STRONG else "warn" if self.ratio >= RATIO_WARN else ""

    @property
    def breaks_at(self) -> float | None:
        """The strength at which text usually begins to break, where the slider reaches it."""
        at = RATIO_WARN / self.unit_ratio if self.unit_ratio else math.inf
        return at if at <= SLIDER_END else None

    def slider(self, strength: float | None = None) -> int:
        """Where a strength stands on the slider, −100 to 100, finer near zero."""
        value = (self.value or 0.0) if strength is None else strength
        return round(math.copysign(100 * math.sqrt(min(abs(value) / SLIDER_END, 1.0)), value))

    def usual_strength(self) -> str:
        """A strength whose vector is about half the usual residual norm: what tends to show and not yet break."""
        at = RATIO_WARN / self.unit_ratio if self.unit_ratio else 1.0
        return f"{min(max(round(2 * at) / 2, 0.5), 5.0):g}"


@dataclass
class Form:
    """The whole form.  `values` are the settings as typed; `errors` are by field name."""

    prompt: str = ""
    chips: list[Chip] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    special: bool = False
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def has_errors(self) -> bool:
        return bool(self.errors) or any(chip.errors for chip in self.chips)

    @property
    def facts(self) -> SaeFacts | None:
        """Of the first SAE that is known."""
        return next((chip.facts for chip in self.chips if chip.facts), None)


def default_values() -> dict[str, str]:
    settings = Sampling()
    return {
        "temperature": f"{settings.temperature:g}", "top_p": f"{settings.top_p:g}", "top_k": str(settings.top_k),
        "length": str(settings.length), "seed": str(settings.seed), "positions": "all", "start": "0"}


def new_seed() -> str:
    return str(secrets.randbelow(10**6))


def read_form(data: ImmutableMultiDict[str, Any]) -> Form:
    """What came with an address or a POST; nothing is judged here."""
    saes, latents = data.getlist("sae"), data.getlist("latent")

    def nth(name: str, i: int, usual: str) -> str:
        given = data.getlist(name)
        return str(given[i]) if i < len(given) else usual

    chips = [
        Chip(sae=nth("sae", i, str(saes[-1]) if saes else ""), latent=str(latent), mode=nth("mode", i, "add"),
             strength=nth("strength", i, ""), factor=nth("factor", i, "0"))
        for i, latent in enumerate(latents)]
    values = {name: str(data.get(name, usual)) for name, usual in default_values().items()}
    prompt = str(data.get("prompt", "")).replace("\r\n", "\n")  # browsers send form text with CRLF
    return Form(prompt, chips, values, special=bool(data.get("special")))


def form_of(request: SteerRequest, facts: Mapping[str, SaeFacts]) -> Form:
    """The form filled with a request that was made before."""
    s, w = request.sampling, request.where
    chips = [Chip(
        sae=i.sae, latent=str(i.latent), mode=i.mode, facts=facts.get(i.sae), max_act=i.max_act,
        strength=f"{i.strength:g}" if i.mode in ("add", "clamp") else "1",
        factor=f"{i.strength:g}" if i.mode == "scale" else "0") for i in request.interventions]
    values = {
        "temperature": f"{s.temperature:g}", "top_p": f"{s.top_p:g}", "top_k": str(s.top_k), "length": str(s.length),
        "seed": str(s.seed), "positions": w.positions, "start": str(w.start)}
    return Form(request.prompt, chips, values, special=w.special)


def check(form: Form) -> SteerRequest | None:
    """The request that the form makes.  None where something is wrong: then every fault is at its field."""
    interventions = [_intervention(chip) for chip in form.chips]
    _check_chips(form)
    length = _whole(form, "length", 1, MAX_LENGTH)
    sampling = {
        "temperature": _within(form, "temperature", 0, 5), "top_p": _within(form, "top_p", 0.01, 1),
        "top_k": _whole(form, "top_k", 0, 1_000_000), "length": length,
        "seed": _whole(form, "seed", 0, MAX_SEED)}
    positions, start = form.values["positions"], _whole(form, "start", 0, 1_000_000)
    if positions not in POSITIONS:
        form.errors["positions"] = f"one of: {', '.join(POSITIONS)}"
    _check_prompt(form, length)
    if form.has_errors or form.facts is None:
        return None
    return SteerRequest(
        model=form.facts.model, prompt=form.prompt, interventions=tuple(i for i in interventions if i is not None),
        sampling=Sampling(**sampling),  # type: ignore[arg-type]
        where=Where(positions=positions, start=start, special=form.special))  # type: ignore[arg-type]


def _intervention(chip: Chip) -> Intervention | None:
    if chip.mode not in MODES:
        chip.errors["mode"] = f"one of: {', '.join(MODES)}"
    strength = 0.0
    name = {"add": "strength", "clamp": "strength", "scale": "factor"}.get(chip.mode)
    if name is not None:
        parsed = _float(getattr(chip, name))
        if parsed is None or abs(parsed) > MAX_STRENGTH:
            chip.errors[name] = f"a number from −{MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
        else:
            strength = parsed
    if chip.mode in ("add", "clamp") and chip.max_act == 0 and "latent" not in chip.errors:
        chip.errors["latent"] = (
            f"latent {chip.latent} never fired in the build, so its strength has no unit; other modes work")
    if chip.errors or chip.facts is None or chip.number is None or chip.max_act is None:
        return None
    return Intervention(
        sae=chip.sae, layer=chip.facts.layer, latent=chip.number, mode=chip.mode,  # type: ignore[arg-type]
        strength=strength, max_act=chip.max_act)


def _check_chips(form: Form) -> None:
    if not form.chips:
        form.errors["add"] = "choose a latent to steer with: type its number"
    elif len(form.chips) > MAX_LATENTS:
        form.errors["add"] = f"{len(form.chips)} latents; {MAX_LATENTS} at most"
    seen = set()
    for chip in form.chips:
        if (chip.sae, chip.number) in seen:
            chip.errors.setdefault("latent", f"latent {chip.latent} is there twice; remove one")
        seen.add((chip.sae, chip.number))
        if chip.facts and form.facts and chip.facts.model != form.facts.model:
            chip.errors.setdefault("latent", f"{chip.sae} belongs to another model than {form.facts.id}")


def _check_prompt(form: Form, length: int | None) -> None:
    if not form.prompt.strip():
        form.errors["prompt"] = "type some text for the model to go on from"
    elif len(form.prompt) > MAX_PROMPT_CHARACTERS:
        form.errors["prompt"] = f"{len(form.prompt):,} characters; {MAX_PROMPT_CHARACTERS:,} at most"
    elif form.facts is not None:
        try:
            info = find_model(form.facts.model)
            tokens = prompt_length(info, form.prompt)
            if tokens is not None:
                check_room(tokens, length or 1, info.n_ctx, info.name)
        except UserError as error:
            form.errors.setdefault(error.field or "prompt", str(error).partition(": ")[2] or str(error))


def _float(text: str) -> float | None:
    try:
        value = float(text.strip().replace("−", "-"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _within(form: Form, name: str, low: float, high: float) -> float | None:
    value = _float(form.values[name])
    if value is None or not low <= value <= high:
        form.errors[name] = f"a number from {low:g} to {high:g}"
        return None
    return value


def _whole(form: Form, name: str, low: int, high: int) -> int | None:
    value = _float(form.values[name])
    if value is None or value != int(value) or not low <= value <= high:
        form.errors[name] = f"a whole number from {low:,} to {high:,}"
        return None
    return int(value)


