"""The choice of how special tokens in a text are read, from the form to the request and back."""

from __future__ import annotations

import pytest
from starlette.datastructures import ImmutableMultiDict

from app.pages.inspect import form as inspect_form
from app.pages.inspect.form import DisplayOptions, InspectionQuery, InspectionUrl
from app.pages.markup_choice import markup_of, markup_word
from app.pages.steer.form import form_of, read_form
from app.pages.steer.form_check import check
from sae.steering.request import parse_request


@pytest.mark.parametrize(("word", "choice"), [("", None), ("yes", True), ("no", False)])
def test_a_form_and_a_request_say_the_same(word: str, choice: bool | None) -> None:
    assert markup_of(word) is choice
    assert markup_word(choice) == word
    assert read_form(ImmutableMultiDict([("markup", word)])).values["markup"] == word
    request = parse_request({"model": "m", "prompt": "x", "markup": choice, "interventions": [
        {"sae": "a/b", "layer": 1, "latent": 0, "mode": "ablate", "max_act": 1}]})
    assert form_of(request, {}).values["markup"] == word


def test_another_word_is_a_fault_at_the_field() -> None:
    form = read_form(ImmutableMultiDict([("markup", "perhaps"), ("prompt", "x"), ("latent", "1")]))
    assert check(form) is None
    assert "Special tokens in the prompt" in form.errors["markup"]


def test_the_address_of_an_inspection_has_the_choice_and_older_ones_stay() -> None:
    plain, chosen = InspectionQuery(("a",), ("m/s",)), InspectionQuery(("a",), ("m/s",), "yes")
    assert plain.id != chosen.id
    assert "markup" not in plain.json()
    assert InspectionQuery.of(chosen.json()) == chosen
    assert InspectionQuery.of(plain.json()) == plain
    assert "markup=yes" in InspectionUrl(chosen, False, DisplayOptions()).link()
    assert inspect_form.form_of(chosen).markup == "yes"
    assert inspect_form.read_form(ImmutableMultiDict([("markup", "no")])).markup == "no"
