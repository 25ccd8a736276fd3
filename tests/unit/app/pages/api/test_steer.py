"""Tests of a steering body as the form's fields."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from app.pages.api.steer import SteerIn, form_fields
from app.pages.steer.form import read_form
from sae.errors import UserError

LATENT = {"sae": "demo/one", "latent": 3}


def test_each_latent_keeps_its_own_number() -> None:
    form = read_form(form_fields(SteerIn.model_validate({"prompt": "a\nb", "latents": [
        LATENT | {"strength": -0.1}, LATENT | {"latent": 4, "mode": "clamp", "target": 1e-7},
        LATENT | {"latent": 5, "mode": "scale", "factor": 2}]})))
    assert [(chip.latent, chip.mode, chip.strength, chip.target, chip.factor) for chip in form.chips] == [
        ("3", "add", "-0.1", "", ""), ("4", "clamp", "", "1e-07", ""), ("5", "scale", "", "", "2.0")]
    assert form.prompt == "a\nb"


def test_what_is_left_out_is_as_on_the_untouched_form() -> None:
    plain = read_form(form_fields(SteerIn.model_validate({"prompt": "a", "latents": [LATENT]})))
    given = read_form(form_fields(SteerIn.model_validate({"prompt": "a", "latents": [LATENT], "seed": 5, "top_k": 3})))
    assert given.values == plain.values | {"seed": "5", "top_k": "3"}
    assert (plain.control, plain.special, plain.chat) == (False, False, False)


def test_a_chat_becomes_the_forms_messages() -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"},
            {"role": "user", "content": "3"}]
    form = read_form(form_fields(SteerIn.model_validate({"chat": chat, "latents": [LATENT]})))
    assert (form.chat, form.values["system"], form.said, form.prompt) == (
        True, "s", [("user", "1"), ("assistant", "2")], "3")


def test_a_chat_ends_with_the_user_and_has_no_prompt() -> None:
    chat = [{"role": "user", "content": "1"}]
    with pytest.raises(UserError, match="not both"):
        form_fields(SteerIn.model_validate({"prompt": "a", "chat": chat, "latents": [LATENT]}))
    with pytest.raises(UserError, match="should be the user's"):
        form_fields(SteerIn.model_validate({"chat": [{"role": "assistant", "content": "1"}], "latents": [LATENT]}))


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError):
        SteerIn.model_validate({"prompt": "a", "latents": [LATENT], "tempo": 1})
