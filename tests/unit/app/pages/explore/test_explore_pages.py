"""The pages of an SAE, through the program, on synthetic builds."""

from __future__ import annotations

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.library import labels
from sae.store.build import Build
from sae.workspace.paths import Workspace
from tests.builds import S, Synthetic
from tests.unit.app.conftest import write_sae
from tests.unit.app.pages.conftest import BATCH, TOP

VOID = {"meta", "link", "input", "br", "hr", "img", "path", "col"}


class Checker(HTMLParser):
    """Notes what a page must not hold: unclosed tags, inline style or script, doubled ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if "style" in values or any(name.startswith("on") for name in values):
            self.faults.append(f"inline style or handler on <{tag}>")
        if tag == "script" and not values.get("src"):
            self.faults.append("inline script")
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> does not close what is open")


def page(client: TestClient, url: str, status: int = 200, **headers: str) -> str:
    response = client.get(url, headers=headers)
    assert response.status_code == status, response.text[:500]
    checker = Checker()
    checker.feed(response.text)
    assert checker.faults == []
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    return response.text


def json_of(client: TestClient, url: str) -> Any:
    response = client.get(url)
    assert response.status_code == 200
    return response.json()


def text_of(markup: str) -> str:
    return re.sub(r"<[^>]+>", "", markup)


def test_home_shows_the_saes(browsable: TestClient) -> None:
    html = page(browsable, "/")
    assert f'href="/{BATCH}"' in html
    assert f'href="/{TOP}"' in html
    assert "0.184" in html
    assert "trained on 1.5 M tokens" in html
    assert "fraction of variance unexplained" in html, "figures say what they are"
    assert 'class="sparkline"' in html


def test_home_says_what_the_program_does_and_leads_into_it(browsable: TestClient) -> None:
    html = page(browsable, "/")
    assert "Browse what the latents of a sparse autoencoder (SAE) react to" in html
    for door in (rf'class="card door" href="/{BATCH}/\d+"', f'class="card door" href="/steer[?]sae={BATCH}"',
                 f'class="card door" href="/inspect[?]sae={BATCH}"'):
        found = re.search(door, html.replace("%2F", "/"))
        assert found, door
        assert browsable.get(re.findall('href="([^"]+)"', found[0])[0]).status_code == 200


def test_only_administrators_are_offered_to_train(admin: TestClient, browsable: TestClient) -> None:
    assert 'href="/admin/train"' in page(admin, "/")
    assert 'href="/admin/import"' in page(admin, "/")
    browsable.cookies.clear()
    html = page(browsable, "/")
    assert 'href="/admin/train"' not in html
    assert 'href="/login?next=/"' in html


def test_an_empty_workspace_says_what_to_do(client: TestClient, admin: TestClient) -> None:
    html = page(admin, "/")
    assert "Nothing here yet" in html
    assert 'href="/admin/train"' in html
    assert 'href="/admin/import"' in html
    client.cookies.clear()
    html = page(client, "/")
    assert "Nothing here yet" in html
    assert 'href="/login?next=/"' in html
    assert "saescope demo" in html


def test_cards_of_saes_without_an_index_have_no_dead_links(
    admin: TestClient, client: TestClient, workspace: Workspace
) -> None:
    write_sae(workspace, BATCH)
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    html = page(admin, "/")
    assert f'href="/admin/index?sae={BATCH}"' in html.replace("%2F", "/")
    client.cookies.clear()
    for shown in (html, page(client, "/")):
        for href in set(re.findall(r'href="(/[^"]*)"', shown)) - {"/admin/train", "/admin/import"}:
            assert client.get(href.replace("&amp;", "&")).status_code in (200, 303), href


def test_many_saes_are_a_table_with_the_best_first(browsable: TestClient, workspace: Workspace) -> None:
    for i, fvu in enumerate((0.5, 0.05, None)):
        metrics = {} if fvu is None else {"fvu": fvu, "l0": 10.0 * (i + 1)}
        write_sae(workspace, f"demo/sweep-{i}", metrics=metrics, training={"tokens": 200_000})
    browsable.app.state.catalog.sync()  # type: ignore[attr-defined]

    def order(query: str) -> list[str]:
        rows = page(browsable, f"/{query}").partition("<tbody>")[2]
        return re.findall(r'<tr data-row><td class="mono"><a href="/demo/([^"]+)"', rows)

    names = [BATCH.removeprefix("demo/"), TOP.removeprefix("demo/")]
    assert order("") == ["sweep-1", *names, "sweep-0", "sweep-2"]
    assert order("?sort=fvu&dir=desc") == ["sweep-0", *names, "sweep-1", "sweep-2"], "the unmeasured are last"
    assert order("?sort=l0")[:2] == ["sweep-0", *names[:1]]
    assert order("?sort=trained&dir=asc")[0] == "sweep-0"
    assert order("?sort=nonsense&dir=desc") == order("?sort=fvu&dir=desc")
    assert 'aria-sort="ascending"' in page(browsable, "/")


def test_an_empty_workspace_with_the_demo_run_tells_its_phases(client: TestClient) -> None:
    from app.main import start_demo

    start_demo(client.app)  # type: ignore[arg-type]
    html = page(client, "/")
    assert "What is happening" in html
    for phase in ("text", "training", "evaluation", "index"):
        assert f"<dt>{phase}</dt>" in html
    assert 'class="card run-card"' in html


def test_the_page_of_an_sae(browsable: TestClient) -> None:
    html = page(browsable, f"/{BATCH}")
    for said in ("0.1842", "ΔCE", "k = 12", "Density of latents", "Start here", "index-1", "saescope index"):
        assert said in html
    assert html.count("<polyline") >= 2, "training curves"
    assert json_of(browsable, f"/{BATCH}.json")["counts"]["all"] == 160


def test_an_sae_without_a_build(client: TestClient, workspace: Workspace) -> None:
    write_sae(workspace, BATCH)
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    assert "no index of contexts yet" in page(client, f"/{BATCH}")
    assert "saescope index" in page(client, f"/{BATCH}/latents", 404)
    assert f'href="/{BATCH}"' in page(client, "/")


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


def test_search_by_token_in_the_table(browsable: TestClient, made: dict[str, Synthetic]) -> None:
    html = page(browsable, f"/{BATCH}/latents?token=self")
    token = int(re.search(r"\(id (\d+)", html)[1])  # type: ignore[index]
    acts = made[BATCH].acts[(made[BATCH].tokens.reshape(-1) == token)]
    body = json_of(browsable, f"/{BATCH}/latents.json?token=%23{token}")
    assert body["total"] == int((acts > 0).any(axis=0).sum())
    assert "No token contains" in page(browsable, f"/{BATCH}/latents?token=zzzznowhere")
    assert "No latent matches" in page(browsable, f"/{BATCH}/latents?flag=dead&flag=dense")


@pytest.mark.parametrize("query", ["sort=nonsense", "flag=nice", "density=7", "cursor=zzz", "sort=lift&cursor=x"])
def test_bad_queries_are_refused_by_name(browsable: TestClient, query: str) -> None:
    response = browsable.get(f"/{BATCH}/latents.json?{query}")
    assert response.status_code == 422
    assert response.json()["field"] in query


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


@pytest.mark.parametrize("number", ["160", "999999999999999999999", "-1", "abc", "1.5", "٣"])
def test_numbers_that_are_no_latent(browsable: TestClient, number: str) -> None:
    html = page(browsable, f"/{BATCH}/{number}", 404)
    assert "160 latents, 0 to 159" in html
    assert browsable.get(f"/{BATCH}/{number}.json").json()["status"] == 404


def links(html: str) -> dict[str, str]:
    """The links of an error page below its message: address -> text."""
    return dict(re.findall('<a class="button" href="([^"]+)">([^<]+)</a>', html))


def test_unknown_saes(browsable: TestClient) -> None:
    html = page(browsable, "/demo/nothing", 404)
    assert {f"/{BATCH}", f"/{TOP}", "/demo", "/"} <= set(links(html))
    assert browsable.get("/demo/nothing.json").json()["nearest"][-1] == "/demo"
    assert set(links(page(browsable, "/nobody/nothing/3", 404))) == {"/"}


def test_error_pages_keep_the_sae_and_lead_to_the_nearest(browsable: TestClient) -> None:
    for path, status, nearest in (
        (f"/{BATCH}/160", 404, f"/{BATCH}/159"), (f"/{BATCH}/1/2/3/4/5", 404, f"/{BATCH}"),
        (f"/inspect/{BATCH}/999", 404, f"/{BATCH}")):
        html = page(browsable, path, status)
        assert nearest in links(html), path
        assert f'href="/{BATCH}" aria-current="page"' in html, "the switcher is on the SAE"
        assert f'href="/{BATCH}/tokens"' in html, "the SAE's pages are in the header"
        for href in links(html):
            assert browsable.get(href).status_code == 200
    assert f"/{BATCH}/4/source/0" in links(page(browsable, f"/{BATCH}/4/source/0?first=-1", 422))


def test_wrong_methods_are_named(browsable: TestClient) -> None:
    assert "Method not allowed" in browsable.delete(f"/{BATCH}").text


def test_an_sae_without_an_index_offers_administrators_to_build_it(
    admin: TestClient, client: TestClient, workspace: Workspace
) -> None:
    write_sae(workspace, BATCH)
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    address = f"/admin/index?sae={BATCH.replace('/', '%2F')}"
    assert address in links(page(admin, f"/{BATCH}/latents", 404))
    assert f'href="/admin/index?sae={BATCH}"' in page(admin, f"/{BATCH}").replace("%2F", "/")
    client.cookies.clear()
    assert address not in page(client, f"/{BATCH}/latents", 404)


def test_error_pages_know_who_is_signed_in(admin: TestClient) -> None:
    for path in ("/nowhere/at/all/that/is/known", "/demo/none"):
        assert 'action="/logout"' in page(admin, path, 404)


def test_the_page_of_a_model_lists_its_saes(browsable: TestClient, workspace: Workspace) -> None:
    html = page(browsable, "/demo")
    assert "SAEs of demo" in html
    assert f'href="/{BATCH}"' in html
    assert "Trained for different lengths" not in html
    write_sae(workspace, "demo/short", training={"tokens": 200_000})
    browsable.app.state.catalog.sync()  # type: ignore[attr-defined]
    html = page(browsable, "/demo")
    assert "short on 200 k tokens" in html
    assert f'<a href="/{TOP}" aria-label="{TOP.removeprefix("demo/")}: L0 12.0, FVU 0.184"><circle' in html
    assert len(json_of(browsable, "/demo.json")["saes"]) == 3
    assert set(links(page(browsable, "/nobody", 404))) == {"/demo", "/"}


def test_the_header_says_who_is_signed_in(browsable: TestClient, admin: TestClient) -> None:
    html = page(admin, f"/{BATCH}/4?sort=max&dir=desc")
    assert "Account of ada" in html
    assert 'href="/account"' in html
    assert '<form method="post" action="/logout">' in html
    browsable.cookies.clear()
    html = page(browsable, f"/{BATCH}/4?sort=max&dir=desc")
    assert f'href="/login?next=/{BATCH}/4%3Fsort%3Dmax%26dir%3Ddesc"' in html
    assert "/logout" not in html


def test_random_leads_to_an_alive_latent(browsable: TestClient) -> None:
    response = browsable.get(f"/{BATCH}/random")
    assert response.status_code == 303
    assert "Top contexts" in page(browsable, response.headers["location"])


def test_latents_per_token(browsable: TestClient) -> None:
    html = page(browsable, f"/{BATCH}/tokens")
    assert "k = 12" in html
    assert "BOS: 8 latents (it is always the same, so few suffice)." in html
    assert 'class="c-outline c-o0"' in html, "the TopK SAE as an outline"
    assert "exactly 12" in html
    assert "(mean on held-out text: <b class=\"mono\">12.01</b>)" in html
    assert 'class="pair"' in html
    body = json_of(browsable, f"/{BATCH}/tokens.json")
    assert "100% ↑" in html, "the TopK SAE's bar is cut, and says so"
    assert "100% ↑" in page(browsable, f"/{TOP}/tokens?with={BATCH}"), "also the other way round"
    assert sum(row["n"] for row in body["hist"]) == body["provenance"]["tokens"]
    topk = json_of(browsable, f"/{TOP}/tokens.json")
    assert [row["l0"] for row in topk["hist"] if row["n"]] == [12]


def test_overlaid_saes_of_different_training_carry_a_warning(
    browsable: TestClient, workspace: Workspace, made: dict[str, Synthetic]
) -> None:
    assert "Trained for different lengths" not in page(browsable, f"/{BATCH}/tokens?with={TOP}")
    write_sae(workspace, "demo/short", n_latents=160, training={"tokens": 200_000})
    workspace.build("demo/short", "index-9").parent.mkdir(parents=True)
    shutil.copy(made[TOP].path, workspace.build("demo/short", "index-9"))
    browsable.app.state.catalog.sync()  # type: ignore[attr-defined]
    assert "short on 200 k tokens" in page(browsable, f"/{BATCH}/tokens?with=demo/short")


def test_the_latents_of_a_token(browsable: TestClient) -> None:
    sample = json_of(browsable, f"/{BATCH}/tokens.json")["samples"][1]
    position = int(np.argmax(sample["l0"][1:])) + 1
    url = f"/{BATCH}/tokens/{sample['sample']}/{position}"
    assert f'href="{url}"' in page(browsable, f"/{BATCH}/tokens")
    html = page(browsable, url)
    assert html.count("data-row") == sample["l0"][position]
    fragment = page(browsable, url, **{"HX-Request": "true"})
    assert "<html" not in fragment
    page(browsable, f"/{BATCH}/tokens/{sample['sample']}/999", 404)
    page(browsable, f"/{BATCH}/tokens/77/0", 404)


@pytest.mark.parametrize("place", ["999/1", "0/99999", "0/-1", f"{10**40}/1"])
def test_page_and_twin_agree_on_what_is_not_there(browsable: TestClient, place: str) -> None:
    assert browsable.get(f"/{BATCH}/tokens/{place}").status_code == 404
    assert browsable.get(f"/{BATCH}/tokens/{place}.json").status_code == 404


def test_the_samples_are_read_once_a_page(browsable: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read = [], Build.samples
    monkeypatch.setattr(Build, "samples", lambda self: reads.append(self.id) or read(self))
    assert browsable.get(f"/{BATCH}/tokens").status_code == 200
    assert len(reads) == len(set(reads)) == 2  # the build and the one laid over it


def test_answers_of_the_build_alone_are_cached_by_it(browsable: TestClient) -> None:
    first = browsable.get(f"/{BATCH}/4.json")
    tag = first.headers["ETag"]
    assert "index-1" in tag
    again = browsable.get(f"/{BATCH}/4.json", headers={"If-None-Match": tag})
    assert again.status_code == 304
    assert again.content == b""
    assert browsable.get(f"/{BATCH}/4.json", headers={"If-None-Match": '"other"'}).status_code == 200
    named = browsable.get(f"/{BATCH}/4.json?build=index-1")
    assert "immutable" in named.headers["Cache-Control"]
    assert "immutable" not in first.headers["Cache-Control"]


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


def test_search(browsable: TestClient) -> None:
    assert browsable.get(f"/search?q=12&sae={BATCH}").headers["location"] == f"/{BATCH}/12"
    html = page(browsable, "/search?q=12")
    assert f'href="/{BATCH}/12"' in html
    assert f'href="/{TOP}/12"' in html
    assert "token=%23" in page(browsable, "/search?q=return")
    assert "no token of the text read does" in page(browsable, "/search?q=zzzznowhere")
    page(browsable, "/search")
    page(browsable, "/search?q=%3Cscript%3E")


def test_a_build_that_was_deleted_is_no_crash(browsable: TestClient, workspace: Workspace) -> None:
    path: Path = workspace.build(BATCH, "index-1")
    path.unlink()
    assert "no longer exists" in page(browsable, f"/{BATCH}/4", 404)
    page(browsable, "/")
    page(browsable, f"/{TOP}/tokens")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_build_is_told_on_its_own_pages(browsable: TestClient, workspace: Workspace, share: float) -> None:
    path = workspace.build(BATCH, "index-1")
    os.truncate(path, int(path.stat().st_size * share))
    for address in (f"/{BATCH}", f"/{BATCH}/latents", f"/{BATCH}/4", f"/{BATCH}/tokens"):
        said = page(browsable, address, 404)
        assert re.search("index-1.duckdb (cannot be opened|is not a saescope build)", said)
        assert f"saescope index --sae {BATCH}" in said
        assert str(workspace.root) not in said  # where our files lie is nobody's business
    for address in ("/", f"/{TOP}/4", f"/{TOP}/tokens?with={BATCH}", "/search?q=return"):
        page(browsable, address)


def test_provenance_stands_on_every_page(browsable: TestClient) -> None:
    for url in ("", "/latents", "/4", "/7", "/tokens", "/tokens/0/3"):
        words = text_of(page(browsable, f"/{BATCH}{url}"))
        for said in ("blocks.2.hook_resid_post", "BOS not counted", "build index-1", "how was this computed?"):
            assert said in words, (url, said)
