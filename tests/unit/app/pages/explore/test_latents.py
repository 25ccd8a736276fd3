"""The table of latents: its columns, what it is sorted by, and values that it cannot use."""

from __future__ import annotations

import re
from html import unescape

import pytest
from fastapi.testclient import TestClient

from app.library import labels
from app.pages.explore.latents_columns import MORE_SORTS
from sae.store.build import Build
from sae.store.latent_query import SORTS, TOKEN_SORTS
from tests.builds import Synthetic
from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.html import json_of, page, text_of

TABLE = f"/{BATCH}/latents"


def listed(html: str) -> list[int]:
    return [int(n) for n in re.findall(rf'<a href="/{BATCH}/(\d+)[^"]*" data-card', html)]


def cells(html: str, name: str) -> list[str]:
    """The cells of the column whose head begins with `name`."""
    heads = [text_of(head).strip() for head in re.findall(r"<th [^>]*>(.*?)</th>", html, re.DOTALL)]
    (place,) = [i for i, head in enumerate(heads) if head.startswith(name)]
    rows = re.findall(r"<tr data-row.*?</tr>", html, re.DOTALL)
    return [text_of(re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)[place]).strip() for row in rows]


@pytest.mark.parametrize("column", MORE_SORTS, ids=lambda column: column.sort)
def test_the_sorted_number_is_a_column_with_an_arrow(browsable: TestClient, column: object) -> None:
    sort, name = column.sort, column.name  # type: ignore[attr-defined]
    rows = json_of(browsable, f"{TABLE}.json?sort={sort}&dir=desc")["latents"]
    html = page(browsable, f"{TABLE}?sort={sort}&dir=desc")
    assert re.search(rf'aria-sort="descending"><a [^>]*>{name} ↓</a>', html)
    shown = cells(html, name)
    values = [row["sort_value"] for row in rows]
    digits = column.digits  # type: ignore[attr-defined]
    assert shown == ["–" if value is None else f"{value:.{digits}f}".replace("-", "−") for value in values]
    assert name not in [text_of(head) for head in re.findall(r"<th.*?</th>", page(browsable, TABLE), re.DOTALL)]


def test_latents_of_a_token_come_by_lift_with_the_token(browsable: TestClient, made: dict[str, Synthetic]) -> None:
    html = page(browsable, f"{TABLE}?token=self")
    rows = json_of(browsable, f"{TABLE}.json?token=self")
    assert (rows["sort"], rows["descending"]) == ("lift", True)
    assert listed(html) == [row["latent"] for row in rows["latents"]]
    assert cells(html, "lift")[0] == f"{rows['latents'][0]['token_lift']:,.1f}×"
    token = rows["token"]
    build = Build.open(made[BATCH].path)
    with_token = [latent for latent in listed(html) if any(
        act > 0 and t == token for c in build.windows(latent) for t, act in zip(c.tokens, c.acts, strict=True))]
    build.close()
    texts = cells(html, "label or rule")
    assert len(with_token) > 10
    for latent, text in zip(listed(html), texts, strict=True):
        assert ("strongest context instead" not in text) == (latent in with_token)
    peaks = re.findall(r'class="t a\d+ peak"[^>]*>([^<]+)<', html)
    assert peaks.count("self") >= len(with_token)


def test_latents_that_raise_a_logit_are_ranked_and_explained(browsable: TestClient) -> None:
    token = json_of(browsable, f"/{BATCH}/9.json")["latent"]["logit_pos"][0][0]
    rows = json_of(browsable, f"{TABLE}.json?logit=%23{token}")
    assert (rows["sort"], rows["logit"]) == ("logit", token)
    html = page(browsable, f"{TABLE}?logit=%23{token}")
    assert listed(html) == [row["latent"] for row in rows["latents"]]
    assert cells(html, "logit")[:3] == [f"+{row['logit']:.2f}" for row in rows["latents"][:3]]
    assert f"(id {token})" in html
    assert "largest rise first" in html
    by_text = page(browsable, f"{TABLE}?logit=re")
    assert "Other tokens containing it" in by_text
    assert re.search(r'href="[^"]*logit=%23\d+', by_text)
    assert "No token contains" in page(browsable, f"{TABLE}?logit=zzzznowhere")


def test_a_starred_latent_keeps_label_and_rule(
    browsable: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.render.latent_words import RuleWords
    from sae.store.recent import Recent
    from sae.store.records import Rule

    rule = RuleWords("fires on", ["self"], Rule("token", [1], None, 0.9, 0.9, 0.9))
    monkeypatch.setattr("app.pages.explore.latent_rows.rule_words", lambda rule_, info: rule)
    monkeypatch.setattr("app.pages.explore.latent_rows._remembered", lambda _: Recent(9))  # forgets what it had
    with browsable.app.state.sessions() as db:  # type: ignore[attr-defined]
        labels.save(db, BATCH, 4, "ada", text="the receiver")
    for latent in (3, 4):
        browsable.post(f"/{BATCH}/{latent}/star", data={"on": "1"})
    html = page(browsable, f"{TABLE}?starred=1")
    texts = [" ".join(text.split()) for text in cells(html, "label or rule")]
    assert texts[0].startswith("★ fires on self")
    assert texts[1].startswith("★ the receiver fires on self")


@pytest.mark.parametrize(("query", "left", "said"), [
    ("sort=nonsense&flag=dense", "flag=dense", "sort:"), ("flag=nice&flag=dense", "flag=dense", "flag:"),
    ("density=7&sort=max&dir=desc", "sort=max&dir=desc", "density:"), ("cursor=zzz", "", "cursor:")])
def test_a_value_that_does_not_exist_is_named_above_the_table(
    browsable: TestClient, query: str, left: str, said: str
) -> None:
    html = page(browsable, f"{TABLE}?{query}", 422)
    notice = re.search(r'role="alert">(.*?)</div>', html, re.DOTALL)
    assert notice is not None
    assert said in notice[1]
    assert listed(html) == listed(page(browsable, f"{TABLE}?{left}")) != []
    assert "nonsense" not in "".join(re.findall(rf'href="{TABLE}[^"]*"', html))


def test_the_old_name_of_alive(browsable: TestClient) -> None:
    old, new = (json_of(browsable, f"{TABLE}.json?flag={flag}&limit=1000") for flag in ("living", "alive"))
    assert old == new
    assert 0 < new["total"] < 160
    html = page(browsable, f"{TABLE}?flag=living")
    assert "flag=alive" in html
    assert "living" not in text_of(html)
    assert json_of(browsable, f"/{BATCH}.json")["counts"]["alive"] == new["total"]


def test_one_comes_back_to_the_rows_that_more_had_added(browsable: TestClient) -> None:
    html, seen = page(browsable, f"{TABLE}?sort=max&dir=desc"), []
    for _ in range(2):
        seen += listed(html)
        more = re.search(r'hx-get="([^"]+)"', html)
        assert more is not None
        response = browsable.get(unescape(more[1]), headers={"HX-Request": "true"})
        html = response.text
    seen += listed(html)
    back = page(browsable, response.headers["HX-Replace-Url"])
    assert listed(back) == seen
    assert len(seen) == 150
    assert page(browsable, f"{TABLE}?shown=99999").count("data-row") == 160


def test_output_scores_have_a_column_where_most_are_known_or_sorted_by(
    browsable: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {3: 0.5}
    monkeypatch.setattr("app.library.latent_effects.scores", lambda db, sae_id, build_id: known)
    assert "output score</a>" not in page(browsable, TABLE)
    assert cells(page(browsable, f"{TABLE}?sort=score&dir=desc"), "output score")[:2] == ["+0.500", "–"]
    known |= dict.fromkeys(range(40), 0.25)
    assert cells(page(browsable, TABLE), "output score")[0] == "+0.250"


def test_the_latent_table_pages_through_all(browsable: TestClient) -> None:
    html = page(browsable, f"/{BATCH}/latents?sort=density&dir=desc")
    seen: list[int] = []
    while True:
        seen += [int(n) for n in re.findall(r'<td class="num"><a href="/demo/2-res-batchtopk-4k/(\d+)', html)]
        more = re.search(r'hx-get="([^"]+)"', html)
        if more is None:
            break
        fragment = browsable.get(more[1].replace("&amp;", "&"), headers={"HX-Request": "true"})
        assert "<html" not in fragment.text
        assert "HX-Request" in fragment.headers["Vary"]
        html = fragment.text
    assert sorted(seen) == list(range(160))
    body = json_of(browsable, f"/{BATCH}/latents.json?sort=density&dir=desc&limit=1000")
    assert [row["latent"] for row in body["latents"]] == seen
    assert body["provenance"]["build_id"] == "index-1"


def test_json_lists_link_to_what_follows(browsable: TestClient) -> None:
    response = browsable.get(f"/{BATCH}/latents.json?flag=alive&limit=5")
    link = re.fullmatch(r'<(.+)>; rel="next"', response.headers["Link"])
    assert link is not None
    first, second = response.json(), json_of(browsable, link[1])
    assert not {r["latent"] for r in first["latents"]} & {r["latent"] for r in second["latents"]}
    assert first["total"] == second["total"]


def test_facets_lead_to_as_many_latents_as_they_say(browsable: TestClient) -> None:
    html = page(browsable, f"/{BATCH}/latents")
    found = re.findall(r'href="([^"]+)"[^>]*>(?:[^<]+)</a> <span class="num muted">([\d,]+)</span>', html)
    assert len(found) >= 10
    for href, n in found:
        url = href.replace("&amp;", "&").replace("/latents", "/latents.json", 1)
        assert json_of(browsable, url)["total"] == int(n.replace(",", "")), href


@pytest.mark.parametrize("sort", sorted(set(SORTS) - TOKEN_SORTS))
def test_every_sort_of_the_table(browsable: TestClient, sort: str) -> None:
    for way in ("asc", "desc"):
        assert browsable.get(f"/{BATCH}/latents?sort={sort}&dir={way}").status_code == 200


def test_columns_are_in_the_address_and_stay_there(browsable: TestClient) -> None:
    html = page(browsable, f"{TABLE}?columns=l0&columns=cosine&sort=max&dir=desc")
    heads = [text_of(head).split(" ?")[0].strip() for head in re.findall(r"<th [^>]*>(.*?)</th>", html, re.DOTALL)]
    assert [head.split("\n")[0].rstrip(" ↓?") for head in heads][2:] == ["max", "mean L0", "neighbour cosine"]
    rows = json_of(browsable, f"{TABLE}.json?sort=max&dir=desc")["latents"]
    assert cells(html, "mean L0") == ["–" if r["mean_l0"] is None else f"{r['mean_l0']:.1f}" for r in rows]
    links = [unescape(link) for link in re.findall(r'href="([^"]*)"', html)]
    assert f"{TABLE}.csv?sort=max&dir=desc&columns=l0,cosine" in links
    assert any(link.startswith(f"{TABLE}?sort=cosine") and "columns=l0,cosine" in link for link in links)
    assert re.search(r'name="columns" value="l0" checked', html)
    assert not re.search(r'name="columns" value="density" checked', html)
    assert "no column &#39;nonsense&#39;" in page(browsable, f"{TABLE}?columns=nonsense,l0", 422)
