"""The page of a latent: its label, its contexts, the latents that it names."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.access import accounts
from app.library import labels
from sae.store.build import Build
from sae.store.records import CofiringLatent
from tests.builds import S, Synthetic
from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.html import json_of, page, text_of

LABEL = f"/{BATCH}/4/label"


def write(client: TestClient, htmx: bool = True, **data: str) -> Any:
    headers = {"Sec-Fetch-Site": "same-origin"} | ({"HX-Request": "true"} if htmx else {})
    return client.post(LABEL, data=data, headers=headers)


def stored(client: TestClient) -> tuple[str, str, str]:
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        row = labels.get(db, BATCH, 4)
        assert row is not None
        return row.text, row.note, row.tags


@pytest.fixture
def signed_in(browsable: TestClient, admin: TestClient) -> TestClient:
    return admin


def test_an_empty_field_clears_what_it_held(signed_in: TestClient) -> None:
    write(signed_in, text="a word", note="seen twice", tags="code", seen="0")
    write(signed_in, text="a word", note="", tags="code", seen="1")
    assert stored(signed_in) == ("a word", "", "code")
    assert "saved" in write(signed_in, text="", note="", tags="", seen="2").text
    assert stored(signed_in) == ("", "", "")
    write(signed_in, tags="code")  # a form without the other fields leaves them alone
    write(signed_in, star="1")
    assert stored(signed_in) == ("", "", "code")


@pytest.mark.parametrize("htmx", [True, False])
def test_the_later_of_two_writers_sees_both(signed_in: TestClient, htmx: bool) -> None:
    with signed_in.app.state.sessions() as db:  # type: ignore[attr-defined]
        accounts.set_password(db, "alice", "correct horse")
        labels.save(db, BATCH, 4, "alice", note="her <note>", seen=0)
    answer = write(signed_in, htmx, text="", note="", tags="mine", seen="0")
    assert answer.status_code == 409
    assert ("<html" in answer.text) is not htmx
    assert stored(signed_in) == ("", "her <note>", "")
    for said in ('name="seen" value="1"', 'name="tags" value="mine"', "her &lt;note&gt;", "alice"):
        assert said in answer.text, said
    assert write(signed_in, htmx, text="", note="both", tags="mine", seen="1").status_code == (200 if htmx else 303)
    assert stored(signed_in) == ("", "both", "mine")


def test_earlier_labels_stand_on_the_page(signed_in: TestClient) -> None:
    write(signed_in, text="first <thought>", seen="0")
    assert "earlier label" not in page(signed_in, f"/{BATCH}/4")
    assert "1 earlier label<" in write(signed_in, text="second thought", seen="1").text
    html = page(signed_in, f"/{BATCH}/4")
    assert 'name="seen" value="2"' in html
    assert "first &lt;thought&gt;" in html
    signed_in.cookies.clear()
    assert "first <thought>".replace("<", "&lt;").replace(">", "&gt;") in page(signed_in, f"/{BATCH}/4")
    assert "second thought by ada" in text_of(page(signed_in, f"/{BATCH}/4"))


def test_contexts_beyond_the_first_twenty_are_shown_on_request(
    browsable: TestClient, made: dict[str, Synthetic], monkeypatch: pytest.MonkeyPatch
) -> None:
    with browsable.app.state.builds.use(BATCH, made[BATCH].path.stem) as build:  # type: ignore[attr-defined]
        some = build.windows(4)[0]
    many = [replace(some, rank=i, act=some.act - i / 1000, ctx=i) for i in range(50)]
    monkeypatch.setattr("sae.store.build.Build.windows", lambda *_: many)
    html = page(browsable, f"/{BATCH}/4?sort=max&dir=desc")
    for shown, further in ((20, 20), (40, 10), (50, 0)):
        assert html.count('class="ctx"') == shown
        more = re.search(r'hx-get="([^"]+)" hx-target="#contexts" hx-swap="outerHTML">Show (\d+) more', html)
        if not further:
            assert more is None
            break
        assert more is not None
        assert int(more[2]) == further
        assert f"{shown} of 50 kept" in html
        assert "sort=max" in more[1]
        html = browsable.get(unescape(more[1]), headers={"HX-Request": "true", "HX-Target": "contexts"}).text
    window = re.search(r'href="([^"]+)" hx-get="[^"]+" [^>]*>long<', html)
    assert window is not None
    assert "contexts=60" in window[1]  # another window shows as many


def test_related_latents_have_heads(browsable: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = page(browsable, f"/{BATCH}/4").partition('id="decoder"')[2].partition("</table>")[0]
    assert re.findall(r"<th [^>]*>([^<]*)</th>", decoder) == ["latent", "cosine", "strongest context"]
    latent = Build.latent
    together = [CofiringLatent(9, 0.5, 12.0, -0.25), CofiringLatent(11, 0.5, 12.0, 0.4, (0.38, 0.62))]
    monkeypatch.setattr(Build, "latent", lambda self, n: replace(found, together=together)
                        if (found := latent(self, n)) else None)
    cofiring = page(browsable, f"/{BATCH}/4").partition('id="together"')[2].partition("</table>")[0]
    assert re.findall(r"<th [^>]*>([^<]*)</th>", cofiring) == [
        "latent", "P(other | this)", "φ", "lift", "strongest context"]
    assert re.findall(r'<td class="num">([^<]+)<', cofiring) == [
        "50%", "−0.25", "12.0×", "50%", "0.40", "12.0×"]
    # Where the share is an estimate, each figure has its interval under it.
    assert re.findall(r'<span class="muted under">([^<]+)</span>', cofiring) == ["38%–62%", "0.30–0.50", "9.1–14.9"]


def test_one_can_skip_the_contexts(browsable: TestClient) -> None:
    html = page(browsable, f"/{BATCH}/4")
    assert html.index('href="#facts"') < html.index('id="contexts"') < html.index('id="facts"')


def test_a_filter_that_does_not_exist_does_not_hide_a_latent(browsable: TestClient) -> None:
    assert "Top contexts" in page(browsable, f"/{BATCH}/4?flag=nice&sort=nonsense&density=7")


def test_a_latent(browsable: TestClient, made: dict[str, Synthetic]) -> None:
    html = page(browsable, f"/{BATCH}/4")
    for said in ("Top contexts", "Top logits", "Bottom logits", "Similar decoder", "Fires on", "Next tokens",
                 "/steer?sae=demo/2-res-batchtopk-4k&amp;latent=4", "1 in "):
        assert said in html.replace("%2F", "/"), said
    acts = made[BATCH].acts[np.tile(np.arange(S), 40) > 0, 4]
    assert f"{acts.max():.2f}" in html
    assert 'rel="prev"' in html
    assert 'rel="next"' in html
    body = json_of(browsable, f"/{BATCH}/4.json")
    assert body["latent"]["n_tokens"] == int((acts > 0).sum())
    assert body["contexts"][0]["act"] == pytest.approx(float(acts.max()))


def test_hostile_text_is_harmless(browsable: TestClient) -> None:
    html = page(browsable, f"/{BATCH}/tokens")
    assert "<script>alert" not in html
    assert "\u202e" not in html
    assert '&lt;' in html
    for latent in range(0, 160, 7):
        page(browsable, f"/{BATCH}/{latent}?window=full&nl=1")


def test_windows_and_line_breaks(browsable: TestClient) -> None:
    short, full = (browsable.get(f"/{BATCH}/4?window={w}", headers={"HX-Request": "true", "HX-Target": "contexts"})
                   for w in ("short", "full"))
    assert full.text.count("<i>") > short.text.count("<i>") > 100
    assert "<html" not in full.text
    assert 'aria-current="true">full' in full.text
    broken = page(browsable, f"/{BATCH}/4?window=full&nl=1")
    assert 'aria-current="true">↵ line breaks' in broken


def test_arrows_follow_the_table_one_came_from(browsable: TestClient) -> None:
    order = [r["latent"] for r in json_of(browsable, f"/{BATCH}/latents.json?sort=max&dir=desc&limit=9")["latents"]]
    html = page(browsable, f"/{BATCH}/{order[3]}?sort=max&dir=desc")
    assert f'rel="prev" href="/{BATCH}/{order[2]}?sort=max&amp;dir=desc"' in html
    assert f'rel="next" href="/{BATCH}/{order[4]}?sort=max&amp;dir=desc"' in html


def test_a_dead_latent_names_the_nearest_alive_one(browsable: TestClient) -> None:
    html = page(browsable, f"/{BATCH}/7")
    assert "never fired in" in html
    assert re.search(r"Nearest alive latent: <a href=\"/demo/[^\"]+/\d+\"", html)


def test_labels_need_sign_in(browsable: TestClient) -> None:
    response = browsable.post(f"/{BATCH}/4/label", data={"text": "x"}, headers={"Sec-Fetch-Site": "same-origin"})
    assert response.status_code == 401
    with browsable.app.state.sessions() as db:  # type: ignore[attr-defined]
        assert labels.get(db, BATCH, 4) is None


def test_labels_stars_and_notes(browsable: TestClient, admin: TestClient) -> None:
    def post(**data: str) -> Any:
        return admin.post(f"/{BATCH}/4/label", data=data, headers={"Sec-Fetch-Site": "same-origin"})

    assert post(text="the <b>word</b>  the", note="100% sure").status_code == 303
    assert post(star="1").status_code == 303
    html = page(admin, f"/{BATCH}/4")
    assert "the &lt;b&gt;word&lt;/b&gt; the" in html
    assert "★" in html
    assert json_of(admin, f"/{BATCH}/latents.json?starred=1")["total"] == 1
    assert json_of(admin, f"/{BATCH}/latents.json?label=WORD")["total"] == 1
    assert json_of(admin, f"/{BATCH}/latents.json?label=100%25")["total"] == 1
    assert json_of(admin, f"/{BATCH}/latents.json?label=_")["total"] == 0, "no wildcard"
    assert "the &lt;b&gt;word" in page(admin, "/search?q=word")
    assert post(star="0").status_code == 303
    assert json_of(admin, f"/{BATCH}/latents.json?starred=1")["total"] == 0
    assert post(text="x" * 201).status_code == 422
    fragment = admin.post(
        f"/{BATCH}/4/label", data={"text": "new"}, headers={"HX-Request": "true", "Sec-Fetch-Site": "same-origin"})
    assert fragment.text.lstrip().startswith("<div id=\"label\"")
    assert admin.post(
        f"/{BATCH}/160/label", data={"text": "x"}, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 404


def test_a_latent_in_a_frame_has_nothing_that_acts(browsable: TestClient) -> None:
    page = browsable.get(f"/{BATCH}/9?embed=1")
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors *" in policy
    assert "form-action 'none'" in policy
    assert "<form" not in page.text
    assert "<script" not in page.text
    assert "frame-ancestors 'none'" in browsable.get(f"/{BATCH}/9").headers["content-security-policy"]


def test_a_document_that_is_not_here(browsable: TestClient) -> None:
    page = browsable.get(f"/{BATCH}/9/source/0")
    assert page.status_code == 404
    assert "no longer in the workspace" in page.text


def test_a_bar_leads_to_the_contexts_of_its_bin(browsable: TestClient) -> None:
    html = page(browsable, f"/{BATCH}/3?sort=max")
    bars = {int(number): unescape(href) for href, number in re.findall(
        rf'<a href="(/{BATCH}/3\?[^"]*bin=(\d+)#contexts)" tabindex="-1"><rect', html)}
    assert len(bars) > 3
    n_stored = []
    for href in bars.values():
        shown = page(browsable, href.partition("#")[0])
        contexts = shown[shown.index('id="contexts"'):shown.index('id="facts"')]
        said = re.search(r"(\d+) stored contexts? with the strongest firing in this bin", contexts)
        assert said is not None
        assert len(re.findall(r"<li[^>]*ctx", contexts)) == int(said[1])
        assert ("None is stored." in contexts) == (said[1] == "0")
        assert "All contexts" in contexts
        assert "sort=max" in contexts
        n_stored.append(int(said[1]))
        assert len(re.findall(r'class="c-bar accent"', shown)) == 1
    assert sum(n_stored) > 0
    assert "stored contexts with" not in page(browsable, f"/{BATCH}/3?bin=9999"), "such a bin does not exist"
