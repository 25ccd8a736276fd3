"""From the steering form to the request that it makes; what is wrong is told at its field."""

from __future__ import annotations

import re
from typing import Any

from app.pages.steer.form import NUMBERS, POSITIONS, Chip, Form, parse_number
from app.web.parameters import whole_number
from sae.errors import UserError
from sae.lm.model_info import find_model
from sae.lm.prompts import has_chat_template, prompt_length
from sae.steering.measurement_requests import MAX_STRENGTHS, SweepRequest
from sae.steering.request import (
    MAX_LATENTS,
    MAX_LENGTH,
    MAX_PROMPT_CHARACTERS,
    MAX_SAMPLES,
    MAX_SEED,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    MAX_STRENGTH,
    MODES,
    ChatMessage,
    Intervention,
    Sampling,
    SteeredPositions,
    SteerRequest,
    check_room,
)


def check(form: Form) -> SteerRequest | None:
    """The request that the form makes.  None where something is wrong: then every fault is at its field."""
    interventions = [_intervention(chip) for chip in form.chips]
    _check_chips(form)
    length = _whole(form, "length", 1, MAX_LENGTH)
    sampling = {
        "temperature": _within(form, "temperature", 0, 5), "top_p": _within(form, "top_p", 0.01, 1),
        "top_k": _whole(form, "top_k", 0, 1_000_000), "length": length, "seed": _whole(form, "seed", 0, MAX_SEED),
        "repetition_penalty": _within(form, "repetition_penalty", 1, 2), "stop": _stops(form)}
    samples = _whole(form, "samples", 1, MAX_SAMPLES)
    positions, start = form.values["positions"], _whole(form, "start", 0, 1_000_000)
    if positions not in POSITIONS:
        form.errors["positions"] = f"one of: {', '.join(POSITIONS)}"
    _check_prompt(form, length)
    if form.has_errors or form.facts is None:
        return None
    try:
        return SteerRequest(
            model=form.facts.model, **_text(form), samples=samples or 1,
            interventions=tuple(i for i in interventions if i is not None),
            sampling=Sampling(**sampling),  # type: ignore[arg-type]
            where=SteeredPositions(positions=positions, start=start, special=form.special),  # type: ignore[arg-type]
            columns=("baseline", "steered", "control") if form.control else ("baseline", "steered"))
    except ValueError as error:  # a rule that no field above looks at
        form.errors["form"] = str(error)
        return None


def check_sweep(form: Form, steer: SteerRequest, concept: tuple[int, ...]) -> SweepRequest | None:
    """The sweep that the form makes of a request; `concept` are the swept latent's tokens."""
    place = swept_place(form)
    words = re.split(r"[\s,;]+", form.values["sweep"].strip())
    strengths = [parse_number(word) for word in words if word]
    if place is None or steer.interventions[place].mode not in NUMBERS:
        form.errors["sweep_of"] = "a latent that is added, clamped or scaled: the others have no strength"
    if not strengths or any(s is None or abs(s) > MAX_STRENGTH for s in strengths):
        form.errors["sweep"] = f"numbers from −{MAX_STRENGTH:g} to {MAX_STRENGTH:g} with spaces between"
    elif len(strengths) > MAX_STRENGTHS:
        form.errors["sweep"] = f"{len(strengths)} strengths; {MAX_STRENGTHS} at most"
    if form.has_errors or place is None:
        return None
    ordered = tuple(sorted({s for s in strengths if s is not None}))
    return SweepRequest(request=steer, place=place, strengths=ordered, concept=concept)


def swept_place(form: Form) -> int | None:
    """Which latent of the form is to be swept, or None where it is none of them."""
    return whole_number(form.values["sweep_of"], len(form.chips))


def _text(form: Form) -> dict[str, Any]:
    if not form.chat:
        return {"prompt": form.prompt}
    system = [("system", form.values["system"])] if form.values["system"].strip() else []
    messages = [*system, *form.said, ("user", form.prompt)]
    return {"chat": tuple(ChatMessage(role=role, content=content) for role, content in messages)}  # type: ignore[arg-type]


def _intervention(chip: Chip) -> Intervention | None:
    if chip.mode not in MODES:
        chip.errors["mode"] = f"one of: {', '.join(MODES)}"
    strength = 0.0
    name = NUMBERS.get(chip.mode)  # type: ignore[call-overload]
    if name is not None:
        parsed = chip.value(name)
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
        form.errors["prompt"] = (
            "type a message for the model to answer" if form.chat else "type some text for the model to go on from")
    elif len(form.prompt) > MAX_PROMPT_CHARACTERS:
        form.errors["prompt"] = f"{len(form.prompt):,} characters; {MAX_PROMPT_CHARACTERS:,} at most"
    elif form.facts is not None:
        try:
            info = find_model(form.facts.model)
            if form.chat and not has_chat_template(info):
                form.errors["chat"] = f"{info.name} has no chat template; let it go on from a text instead"
            tokens = prompt_length(info, form.prompt)  # of a chat the template adds to it; the worker counts that
            if tokens is not None:
                check_room(tokens, length or 1, info.n_ctx, info.name)
        except UserError as error:
            form.errors.setdefault(error.field or "prompt", str(error).partition(": ")[2] or str(error))


def _stops(form: Form) -> tuple[str, ...]:
    r"""One stop string a line; `\n` in it is a line break, `\\` a backslash."""
    stops = [re.sub(r"\\(n|\\)", lambda m: "\n" if m[1] == "n" else "\\", line)
             for line in form.values["stop"].split("\n") if line]
    if len(stops) > MAX_STOPS:
        form.errors["stop"] = f"{len(stops)} stop strings; {MAX_STOPS} at most"
    elif any(len(stop) > MAX_STOP_CHARACTERS for stop in stops):
        form.errors["stop"] = f"{MAX_STOP_CHARACTERS} characters each at most"
    return tuple(stops)


def _within(form: Form, name: str, low: float, high: float) -> float | None:
    value = parse_number(form.values[name])
    if value is None or not low <= value <= high:
        form.errors[name] = f"a number from {low:g} to {high:g}"
        return None
    return value


def _whole(form: Form, name: str, low: int, high: int) -> int | None:
    value = parse_number(form.values[name])
    if value is None or value != int(value) or not low <= value <= high:
        form.errors[name] = f"a whole number from {low:,} to {high:,}"
        return None
    return int(value)
