"""Tests of the records' HTML: text from a server is never markup."""

from __future__ import annotations

from sae.client import html
from sae.client.records import (
    Context,
    Label,
    Latent,
    LatentTable,
    SteeringResult,
    TextActivations,
    TextLatent,
    TextToken,
)

BAD = "<img src=x onerror='alert(1)'>&\""


def latent_of(bad: str) -> Latent:
    label = Label(bad, 1, bad, bad, [bad], False, bad, None, 1)
    context = Context(0, 0, 2.0, bad, 1, [bad, bad, "c"], [0.0, 2.0, 1.0])
    return Latent(bad, 1, bad, 0.01, 2.0, [bad], [(bad, 1, None)], [(bad, 1.0)], [(bad, -1.0)], [context], label)


def test_nothing_from_the_server_is_markup() -> None:
    token = TextToken(1, BAD, False, 2)
    row = TextLatent(3, BAD, 1.0, 1.0, 1, 1, 0.0, 0.1)
    shown = [
        html.latent(latent_of(BAD)),
        html.table(LatentTable(BAD, 1, BAD, [{"latent": 1, "flags": [BAD]}])),
        html.text(TextActivations(BAD, [token], [], [], [], [row])),
        html.steering(SteeringResult(BAD, BAD, BAD, BAD, {"prompt": BAD}, {BAD: BAD}, {})),
        html.steering(SteeringResult(BAD, BAD, BAD, BAD, {"prompt": BAD}, {}, {None: BAD, 1.0: BAD}))]
    for one in shown:
        assert "<img" not in one
        assert "&lt;img" in one


def test_a_context_is_shaded_by_activation() -> None:
    shown = html.latent(latent_of("a"))
    assert shown.count("<span") == 2
    assert "0.80)' title='2.00'>a<" in shown
    assert "0.40)' title='1.00'>c<" in shown


def test_an_inactive_text_and_an_unknown_latent_are_shown() -> None:
    assert "x" in html.text(TextActivations("a/b", [TextToken(1, "x", False, 0)], [], [], [], []))
    label = Label("a/b", 1, "", "", [], False, "", None, 0)
    assert "fires on nothing" in html.latent(Latent("a/b", 1, "/", None, None, [], [], [], [], [], label))
