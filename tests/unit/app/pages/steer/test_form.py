"""Tests of the steering form's values: units, usual strengths, sliders, what is typed and what a run gives back."""

from __future__ import annotations

import math

import pytest
from starlette.datastructures import ImmutableMultiDict

from app.pages.steer.form import (
    MAX_CHIPS,
    Chip,
    Form,
    SaeFacts,
    default_values,
    form_of,
    new_seed,
    parse_number,
    read_form,
    slider_position,
)
from sae.errors import UserError
from sae.steering.request import ChatMessage, Intervention, Sampling, SteeredPositions, SteerRequest

FACTS = SaeFacts("demo/x", "demo", 2, 60, 256, "none", "build-1", median_norm=10.0)


def chip(strength: str = "", *, max_act: float | None = 2.0, facts: SaeFacts | None = FACTS) -> Chip:
    return Chip("demo/x", "3", strength=strength, facts=facts, max_act=max_act)


def sent(*pairs: tuple[str, str]) -> Form:
    return read_form(ImmutableMultiDict(pairs))


@pytest.mark.parametrize(("strength", "ratio", "level"), [
    ("2", 0.4, ""), ("2.5", 0.5, "warn"), ("−5", 1.0, "strong"), ("-5", 1.0, "strong"), ("two", 0.0, "")])
def test_strengths_are_in_units_of_the_residual_stream(strength: str, ratio: float, level: str) -> None:
    one = chip(strength)
    assert one.ratio("strength") == pytest.approx(ratio)
    assert one.level("strength") == level


def test_layer_norm_scales_the_added_vector() -> None:
    normed = SaeFacts("demo/x", "demo", 2, 60, 256, "layer_norm", "b", median_norm=10.0)
    assert chip("1", facts=normed).unit_ratio == pytest.approx(2.0 / 16)  # M · (norm / √d) / norm


def test_coefficients_are_raw_activations() -> None:
    one = chip("1.5")
    one.target = "-2"
    assert (one.coefficient("strength"), one.coefficient("target")) == (3.0, -4.0)
    assert chip("x").coefficient("strength") is None
    assert chip("1", max_act=None).coefficient("strength") is None


def test_without_facts_no_strength_is_called_strong() -> None:
    for one in (chip("100", facts=None), chip("100", max_act=0.0), chip("100", max_act=None)):
        assert (one.unit_ratio, one.level("strength"), one.breaks_at) == (0.0, "", None)


def test_the_breaking_strength_is_named_where_the_slider_reaches_it() -> None:
    assert chip().breaks_at == pytest.approx(2.5)
    assert chip(max_act=0.49).breaks_at is None  # at 10.2, past the slider's end


def test_empty_fields_get_usual_values_and_typed_ones_stay() -> None:
    one = chip()
    one.usual()
    assert (one.strength, one.target, one.factor) == ("1.6", "1.6", "0")  # 0.65 of the breaking strength
    typed = chip("0")
    typed.factor = "2"
    typed.usual()
    assert (typed.strength, typed.target, typed.factor) == ("0", "0", "2")
    weak = chip(max_act=1e-6)
    weak.usual()
    assert weak.strength == "5", "never beyond what a slider shows well"


def test_sliders_are_finer_near_zero_and_end_at_ten() -> None:
    values = (None, 0.0, 0.1, 2.5, 10, 99, -2.5, -99)
    assert [slider_position(value) for value in values] == [0, 0, 10, 50, 100, 100, -50, -100]


@pytest.mark.parametrize(("text", "value"), [
    ("1.5", 1.5), (" −2 ", -2.0), ("1e2", 100.0), ("", None), ("x", None), ("nan", None), ("inf", None),
    ("-inf", None)])
def test_numbers_are_finite_or_none(text: str, value: float | None) -> None:
    assert parse_number(text) == value


def test_one_sae_stands_for_all_latents_and_each_has_its_own_numbers() -> None:
    form = sent(("sae", "a/b"), ("latent", "3"), ("latent", "4"), ("strength", "1"), ("mode", "add"), ("mode", "scale"))
    assert [(c.sae, c.latent, c.mode, c.strength) for c in form.chips] == [
        ("a/b", "3", "add", "1"), ("a/b", "4", "scale", "")]
    two = sent(("sae", "a/b"), ("sae", "a/c"), ("latent", "3"), ("latent", "4"), ("latent", "5"))
    assert [c.sae for c in two.chips] == ["a/b", "a/c", "a/c"]
    assert two.add_sae == "a/b"


def test_an_untouched_form_has_the_defaults_of_a_request() -> None:
    form = sent()
    assert form.values == default_values()
    assert (form.chips, form.prompt, form.special, form.control, form.chat) == ([], "", False, False, False)
    assert default_values()["temperature"] == f"{Sampling().temperature:g}"
    assert not form.has_errors


def test_line_ends_of_browsers_are_those_of_texts() -> None:
    form = sent(("prompt", "a\r\nb"), ("stop", "x\r\ny"), ("role", "user"), ("content", "c\r\nd"))
    assert (form.prompt, form.values["stop"], form.said) == ("a\nb", "x\ny", [("user", "c\nd")])


def test_more_latents_than_a_page_shows_are_refused() -> None:
    assert len(sent(*[("latent", "1")] * MAX_CHIPS).chips) == MAX_CHIPS
    with pytest.raises(UserError, match="33 latents are given") as caught:
        sent(*[("latent", "1")] * (MAX_CHIPS + 1))
    assert caught.value.field == "latent"


def test_a_run_fills_the_form_with_what_it_was_asked() -> None:
    request = SteerRequest(
        model="demo", prompt="def", interventions=(
            Intervention(sae="demo/x", layer=2, latent=3, mode="clamp", strength=-1.5, max_act=2.0),
            Intervention(sae="demo/gone", layer=1, latent=4, mode="scale", strength=0.25, max_act=1.0)),
        where=SteeredPositions(positions="from", start=7, special=True), samples=2,
        sampling=Sampling(stop=("\n\n", "a\\n"), top_k=5), columns=("baseline", "steered", "control"))
    form = form_of(request, {"demo/x": FACTS})
    first, second = form.chips
    assert (first.mode, first.target, first.facts) == ("clamp", "-1.5", FACTS)
    assert (second.mode, second.factor, second.facts) == ("scale", "0.25", None)
    assert form.facts == FACTS
    assert form.values | {"positions": "from", "start": "7", "samples": "2", "top_k": "5"} == form.values
    assert form.values["stop"] == "\\n\\n\na\\\\n", "a line for each, with line breaks spelled out"
    assert (form.special, form.control, form.chat, form.prompt) == (True, True, False, "def")


def test_a_chat_is_taken_apart_into_system_history_and_message() -> None:
    says = [("system", "Be brief."), ("user", "Hello?"), ("assistant", "Hi."), ("user", "And then?")]
    one = Intervention(sae="demo/x", layer=2, latent=3, max_act=2.0)
    request = SteerRequest(model="demo", interventions=(one,), chat=tuple(
        ChatMessage(role=role, content=content) for role, content in says))  # type: ignore[arg-type]
    form = form_of(request, {})
    assert form.chat
    assert form.values["system"] == "Be brief."
    assert form.said == says[1:3]
    assert form.prompt == "And then?"


def test_an_error_of_a_latent_is_an_error_of_the_form() -> None:
    form = Form(chips=[chip("1")])
    assert not form.has_errors
    form.chips[0].errors["strength"] = "no"
    assert form.has_errors


def test_seeds_differ_and_fit_the_field() -> None:
    seeds = {int(new_seed()) for _ in range(50)}
    assert len(seeds) > 40
    assert all(0 <= seed < 10**6 and math.isfinite(seed) for seed in seeds)
