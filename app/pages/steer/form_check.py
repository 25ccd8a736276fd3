"""From the steering form to the request that it makes; every fault is shown at its field.

`SteerRequest` and `SweepRequest` state the limits, and their faults find the form's fields here.  This module adds
what only the form knows: an empty prompt, SAEs of two models, and the room in the model's context.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from app.pages.markup_choice import markup_of
from app.pages.steer.form import NUMBERS, Chip, Form, parse_number
from app.pages.steer.sweep_strengths import default_strengths
from app.web.parameters import whole_number
from sae.errors import UserError
from sae.faults import Fault, faults
from sae.lm.model_info import find_model
from sae.lm.prompts import has_chat_template, prompt_length
from sae.steering.measurement_requests import SweepRequest
from sae.steering.request import SteerRequest, check_room

# The page's names of the fields that a request may refuse.
_NAMES = {
    "temperature": "Temperature", "top_p": "Top-p", "top_k": "Top-k", "length": "Length", "seed": "Seed",
    "repetition_penalty": "Repetition penalty", "stop": "Stop strings", "samples": "Samples",
    "positions": "Steered positions", "start": "From position", "prompt": "Prompt", "chat": "Messages",
    "add": "Latents", "mode": "Mode", "strength": "Strength", "target": "Clamped activation", "factor": "Factor",
    "latent": "Latent", "markup": "Special tokens in the prompt"}


def check(form: Form) -> SteerRequest | None:
    """Return the request that the form makes; None where something is wrong, with every fault at its field."""
    request = None
    try:
        request = SteerRequest.model_validate(_values(form))
    except ValidationError as error:
        for fault in faults(error, SteerRequest):
            _show_at_its_field(form, fault)
    _check_chips(form)
    _check_prompt(form)
    return None if form.has_errors else request


def check_sweep(form: Form, steer: SteerRequest, concept: tuple[int, ...]) -> SweepRequest | None:
    """Return the sweep that the form makes of a request; `concept` are the swept latent's tokens.

    If the form has no strengths, they follow from the latent.
    """
    words = [word for word in re.split(r"[\s,;]+", form.values["sweep"]) if word]
    numbers = [parse_number(word) for word in words]
    strengths: list[Any] = words if None in numbers else sorted({s for s in numbers if s is not None})
    place = swept_place(form)
    if not words and place is not None:
        strengths = default_strengths(form.chips[place])
    try:
        return SweepRequest.model_validate(
            {"request": steer, "place": -1 if place is None else place, "strengths": strengths, "concept": concept})
    except ValidationError as error:
        for fault in faults(error, SweepRequest):
            if fault.path[0] == "place":
                form.errors["sweep_of"] = "Choose a latent that is added, clamped or scaled; others have no strength"
            else:
                form.errors["sweep"] = fault.about("Strengths" if len(fault.path) == 1 else "Each strength")
    return None


def swept_place(form: Form) -> int | None:
    """Return the place of the latent that is to be swept, or None where the form has no such latent."""
    return whole_number(form.values["sweep_of"], len(form.chips))


def _values(form: Form) -> dict[str, Any]:
    """Return the request as typed.  An SAE that is not known has placeholders: its latent has an error already."""
    v = form.values
    sampling = {name: _typed(v[name]) for name in (
        "temperature", "top_p", "top_k", "length", "seed", "repetition_penalty")}
    return {
        "model": form.facts.model if form.facts else "?", **_text(form), "samples": _typed(v["samples"]),
        "interventions": [_intervention(chip) for chip in form.chips],
        "sampling": sampling | {"stop": _stops(v["stop"])},
        "where": {"positions": v["positions"], "start": _typed(v["start"]), "special": form.special},
        "markup": markup_of(v["markup"]),
        "columns": ("baseline", "steered", "control") if form.control else ("baseline", "steered")}


def _typed(text: str) -> str:
    return text.strip().replace("−", "-")


def _text(form: Form) -> dict[str, Any]:
    if not form.chat:
        return {"prompt": form.prompt or " "}  # `_check_prompt` reports an empty one, whatever else is wrong
    system = [("system", form.values["system"])] if form.values["system"].strip() else []
    messages = [*system, *form.said, ("user", form.prompt or " ")]
    return {"chat": [{"role": role, "content": content} for role, content in messages]}


def _intervention(chip: Chip) -> dict[str, Any]:
    name = NUMBERS.get(chip.mode)  # type: ignore[call-overload]
    return {
        "sae": chip.sae or "?", "layer": chip.facts.layer if chip.facts else 0, "latent": chip.number or 0,
        "mode": chip.mode, "strength": _typed(getattr(chip, name)) if name else 0.0, "max_act": chip.max_act or 0.0}


def _stops(text: str) -> list[str]:
    r"""Return one stop string for each line; `\n` in it is a line break, `\\` a backslash."""
    return [re.sub(r"\\(n|\\)", lambda m: "\n" if m[1] == "n" else "\\", line) for line in text.split("\n") if line]


def _show_at_its_field(form: Form, fault: Fault) -> None:
    """Put a fault of the request at the form's field; an error that is there already stays."""
    first, *more = fault.path or ("form",)
    if first == "interventions" and more:
        _show_at_its_latent(form.chips[int(more[0])], str(more[-1]), fault)
    elif first == "interventions":
        if not form.chips:
            form.errors["add"] = "Choose a latent to steer with"
        elif fault.type == "too_long":
            form.errors["add"] = fault.about(_NAMES["add"])
    else:
        name = str(more[0] if first in ("sampling", "where") and more else first)
        name = "prompt" if name == "chat" and more else name
        shown = name if name in (*form.values, "prompt", "chat") else "form"
        form.errors.setdefault(shown, fault.about(_NAMES.get(name, name)))


def _show_at_its_latent(chip: Chip, field: str, fault: Fault) -> None:
    if field == "strength":
        field = NUMBERS.get(chip.mode, "mode")  # type: ignore[call-overload]
    field = field if field in ("mode", *NUMBERS.values()) else "latent"
    chip.errors.setdefault(field, fault.about(_NAMES[field]))


def _check_chips(form: Form) -> None:
    for chip in form.chips:
        if chip.facts and form.facts and chip.facts.model != form.facts.model:
            chip.errors.setdefault("latent", f"{chip.sae} belongs to another model than {form.facts.id}")


def _check_prompt(form: Form) -> None:
    if not form.prompt.strip():
        form.errors["prompt"] = (
            "Type a message for the model to answer" if form.chat else "Type some text for the model to continue")
    elif form.facts is not None and "prompt" not in form.errors:  # an endless text is never tokenised
        try:
            info = find_model(form.facts.model)
            if form.chat and not has_chat_template(info):
                form.errors["chat"] = f"{info.name} has no chat template; let it continue a text instead"
            tokens = prompt_length(info, form.prompt)  # a chat's template adds to it, which the worker counts
            if tokens is not None:
                check_room(tokens, whole_number(form.values["length"]) or 1, info.n_ctx, info.name)
        except UserError as error:
            form.errors.setdefault(error.field or "prompt", str(error).partition(": ")[2] or str(error))
