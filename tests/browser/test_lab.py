"""The steering lab and the inspector in a real browser: by pointer, by keyboard, and when the worker is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import Server, picture

pytestmark = pytest.mark.browser

SAE = "demo/2-res-batchtopk-512"
RUN_MS = 120_000
LONG = {"length": "230", "samples": "8"}

# The lowest ratio of contrast of any text that is seen, with the text; transparent backgrounds show what is below.
_CONTRAST = r"""() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (css) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return rgb("Canvas");
  };
  let worst = [21, ""];
  const walk = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.data.trim(), element = walk.currentNode.parentElement;
    const seen = element.checkVisibility({ checkVisibilityCSS: true });
    if (!text || !seen || element.closest("svg, option, :disabled")) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst[0]) worst = [ratio, text.slice(0, 40)];
  }
  return worst;
}"""


@pytest.fixture(scope="module")
def latents(server: Server) -> list[int]:
    """Latents of the SAE that fire often but not always, the most frequent first."""
    rows = httpx.get(f"{server.address}/{SAE}/latents.json?sort=density&dir=desc&limit=400").json()["latents"]
    return [row["latent"] for row in rows if row["density"] < 0.05]


def run(page: Page, button: str = "Run") -> None:
    page.get_by_role("button", name=button, exact=True).click()


def done(page: Page, word: str = "done") -> None:
    expect(page.locator(".steer-status")).to_contain_text(f"{word} ·", timeout=RUN_MS)


def settings(page: Page, values: dict[str, str]) -> None:
    if not page.locator("#temperature").is_visible():
        page.locator("summary", has_text="Sampling and positions").click()
    for name, value in values.items():
        page.locator(f"#{name}").fill(value)


def slide(slider: Locator, keys: int) -> None:
    """Move a slider by its keyboard."""
    slider.focus()
    for _ in range(abs(keys)):
        slider.press("ArrowRight" if keys > 0 else "ArrowLeft")


def test_sliders_keep_their_meaning_and_drive_the_run(page: Page, server: Server, latents: list[int]) -> None:
    page.goto(f"{server.address}/steer?sae={SAE}&latent={latents[0]}&strength=0")
    add = page.locator("[data-name=strength]")
    slide(add.locator(".slider"), 40)
    expect(page.locator("[name=strength]")).to_have_value("1.6")
    coefficient = add.locator(".raw").inner_text()
    assert float(coefficient) > 0
    page.locator("[name=strength]").fill("-80")
    expect(add.locator(".warning-strong")).to_be_visible()
    assert add.locator(".slider").input_value() == "-100"
    page.locator("[name=mode]").select_option("scale")  # another number, another slider: nothing carried over
    expect(add).to_be_hidden()
    factor = page.locator("[data-name=factor]")
    slide(factor.locator(".slider"), 10)
    expect(page.locator("[name=factor]")).to_have_value("0.1")
    expect(page.locator("[name=strength]")).to_have_value("-80")
    page.locator("[name=mode]").select_option("add")
    page.locator("[name=strength]").fill("1")
    page.locator("[name=control]").check()
    settings(page, {"length": "24", "samples": "2"})
    run(page)
    done(page)
    expect(page).to_have_url(re.compile("/steer/steer-"))
    texts = {name: page.locator(f'[id="{name}"]').inner_text() for name in
             ("baseline", "steered", "control", "baseline.2", "steered.2", "control.2")}
    assert len(set(texts.values())) == 6
    expect(page.locator(".kl svg[role=img]")).to_be_visible()
    picture(page, "lab.png")


def test_a_token_shows_its_alternatives_by_click_and_by_keyboard(
    page: Page, server: Server, latents: list[int]
) -> None:
    page.goto(f"{server.address}/steer?sae={SAE}&latent={latents[0]}&strength=2&length=16")
    run(page)
    done(page)
    page.locator("#steered a.t").nth(14).click()
    tables = page.locator("#next-tokens table")
    expect(tables).to_have_count(2, timeout=RUN_MS)
    expect(page.locator("#next-tokens")).to_contain_text("sampled")
    first = page.locator("#next-tokens").inner_text()
    row = page.locator("#baseline .ctx")
    row.focus()
    for _ in range(13):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#next-tokens")).not_to_have_text(first)
    expect(page.locator("#next-tokens")).to_contain_text("of baseline")


def test_the_tables_of_a_clicked_token_are_on_the_screen_and_do_not_cover_it(
    page: Page, server: Server, latents: list[int]
) -> None:
    page.goto(f"{server.address}/steer?sae={SAE}&latent={latents[0]}&strength=1&length=90&samples=3")
    run(page)
    done(page)
    page.evaluate("scrollTo(0, 0)")
    page.locator(".next-panel > summary").click()  # it may be folded away, and opens again when a token is clicked
    for name, number in (("steered", 30), ("steered.2", 80)):
        token = page.locator(f'[id="{name}"] a.t').nth(number)
        token.click()
        expect(page.locator("#next-tokens")).to_contain_text(f"of {name.partition('.')[0]}", timeout=RUN_MS)
        expect(page.locator("#next-tokens table").first).to_be_in_viewport()
        panel, place = page.locator(".next-panel").bounding_box(), token.bounding_box()
        assert panel is not None
        assert place is not None
        assert 0 <= place["y"] < panel["y"] < 900


def test_a_latent_is_found_by_a_token_and_added(page: Page, server: Server, latents: list[int]) -> None:
    page.goto(f"{server.address}/steer?sae={SAE}&latent={latents[0]}&strength=1")
    page.locator("#prompt").fill("kept = 1")
    page.locator("#add").fill("import")
    first = page.locator(".found-list button").first
    expect(first).to_be_visible(timeout=RUN_MS)
    latent = first.get_attribute("value")
    first.click()
    expect(page.locator(".chip")).to_have_count(2)
    assert page.locator(".chip [name=latent]").nth(1).get_attribute("value") == latent
    expect(page.locator("#prompt")).to_have_value("kept = 1")
    expect(page.locator(".found-list")).to_have_count(0)
    page.locator("#add").fill("7")
    page.locator("#add").press("Enter")
    expect(page.locator(".chip")).to_have_count(3)


def test_stop_ends_a_run_and_keeps_what_was_written(page: Page, server: Server, latents: list[int]) -> None:
    page.goto(f"{server.address}/steer?sae={SAE}&latent={latents[0]}")
    settings(page, LONG)
    run(page)
    expect(page.locator("#steered a.t, #steered span.t").nth(16)).to_be_visible(timeout=RUN_MS)
    run(page, "Stop")
    done(page, "stopped")
    written = page.locator("#steered").inner_text()
    page.reload()
    assert page.locator("#steered").inner_text() == written


def test_a_sweep_opens_its_texts_and_leads_to_a_strength(page: Page, server: Server, latents: list[int]) -> None:
    page.goto(f"{server.address}/steer?sae={SAE}&latent={latents[0]}&length=24")
    page.locator("summary", has_text="Sweep").click()
    page.locator("#sweep").fill("-2 1 3 100")
    run(page, "Sweep")
    done(page)
    rows = page.locator(".sweep-row")
    expect(rows).to_have_count(5)
    sign = "(cell) => getComputedStyle(cell, '::before').content"
    assert "▸" in rows.nth(3).locator("summary > *").first.evaluate(sign), "a row looks as if it opens"
    rows.nth(3).locator("summary").click()
    expect(rows.nth(3).locator("a.t").first).to_be_visible()
    picture(page, "sweep.png")
    rows.nth(3).get_by_role("link", name="steer with 3").click()
    expect(page.locator("[name=strength]")).to_have_value("3")


def test_a_sweep_without_usable_strengths_leads_to_others(page: Page, server: Server, latents: list[int]) -> None:
    page.goto(f"{server.address}/steer?sae={SAE}&latent={latents[0]}&length=16")
    page.locator("summary", has_text="Sweep").click()
    shown = page.locator("#sweep").get_attribute("placeholder")
    assert shown is not None
    assert len(shown.split()) > 8
    page.locator("[name=mode]").select_option("scale")  # factors are around 1
    expect(page.locator("#sweep")).not_to_have_attribute("placeholder", shown)
    page.locator("[name=mode]").select_option("add")
    expect(page.locator("#sweep")).to_have_attribute("placeholder", shown)
    page.locator("#sweep").fill("60 100")
    run(page, "Sweep")
    done(page)
    verdict = page.locator(".verdict")
    expect(verdict).to_contain_text("None of these is usable")
    first = page.url
    verdict.get_by_role("button", name="Sweep there").click()
    expect(page).not_to_have_url(first)
    done(page)
    expect(page.locator(".sweep-row")).to_have_count(10)
    page.reload()
    page.locator(".earlier summary").click()
    expect(page.locator("#earlier li")).to_have_count(2)


def test_a_permalink_replays_and_a_fork_changes(
    page: Page, browser: Browser, server: Server, latents: list[int]
) -> None:
    page.goto(f"{server.address}/steer?sae={SAE}&latent={latents[0]}&strength=1.5&length=16&seed=11")
    run(page)
    done(page)
    url, text = page.url, page.locator("#steered").inner_text()
    other = browser.new_context(java_script_enabled=False)  # someone else, without JavaScript
    reader = other.new_page()
    reader.goto(url)
    assert reader.locator("#steered").inner_text() == text
    other.close()
    page.get_by_role("link", name="Fork").click()
    expect(page.locator("#seed")).to_have_value("11")
    page.locator("[name=strength]").fill("4")
    run(page)
    done(page)
    assert page.url != url
    assert page.locator("#steered").inner_text() != text
    python = httpx.get(f"{url}.py")
    assert python.status_code == 200
    compile(python.text, "run.py", "exec")


def test_faults_come_back_at_their_fields_with_all_that_was_typed(
    browser: Browser, server: Server, latents: list[int]
) -> None:
    page = browser.new_page()  # whose console may tell of the refusal
    page.goto(f"{server.address}/steer?sae={SAE}&latent={latents[0]}")
    page.locator("#prompt").fill("kept = 1")
    settings(page, {"length": "-5", "seed": "77"})
    run(page)
    expect(page.locator("#length-error")).to_be_visible()
    expect(page.locator("#prompt")).to_have_value("kept = 1")
    expect(page.locator("#seed")).to_have_value("77")
    page.locator("#length").fill("8")
    run(page)
    done(page)
    expect(page.locator("#length-error")).to_have_count(0)
    page.close()


def worker_of(server: Server) -> int:
    """The process of the server's model worker."""
    found = subprocess.run(["pgrep", "-P", str(server.pid), "-f", "app.worker.server"], capture_output=True, text=True,
                           check=True)
    return int(found.stdout.split()[0])


def test_a_killed_worker_is_told_of_and_the_next_request_works(
    page: Page, server: Server, latents: list[int]
) -> None:
    page.goto(f"{server.address}/steer?sae={SAE}&latent={latents[0]}")
    settings(page, LONG)
    run(page)
    expect(page.locator("#steered a.t, #steered span.t").nth(16)).to_be_visible(timeout=RUN_MS)
    os.kill(worker_of(server), signal.SIGKILL)
    expect(page.locator(".steer-status")).to_contain_text("The model worker stopped", timeout=RUN_MS)
    picture(page, "worker-gone.png", full=False)
    settings(page, {"length": "8", "samples": "1"})
    run(page)
    done(page)


def test_from_the_inspector_to_the_steering_page(page: Page, server: Server) -> None:
    page.goto(f"{server.address}/inspect?sae={SAE}")
    page.locator("#text").fill("def main(argv):\n    return 0\n")
    page.keyboard.press("Control+Enter")
    cells = page.locator(".cells")
    expect(cells).to_be_visible(timeout=RUN_MS)
    expect(page).to_have_url(re.compile("/inspect/inspect-"))
    cells.locator("a.t").nth(2).click()
    expect(page.locator("#token-latents table")).to_be_visible()
    page.get_by_role("link", name="surprise").click()
    expect(page.locator(".ranked thead")).to_contain_text("bits")
    page.locator(".ranked [data-card]").first.hover()
    expect(page.locator("#latent-card")).to_contain_text("1 in")
    picture(page, "inspect.png")
    page.get_by_role("link", name="shade text", exact=True).first.click()
    expect(page.get_by_text("shaded by latent")).to_be_visible()
    boxes = page.locator(".ranked input[type=checkbox]")
    chosen = [boxes.nth(i).get_attribute("value") for i in (0, 2)]
    for i in (0, 2):
        boxes.nth(i).check()
    page.get_by_role("button", name="Steer with selected").click()
    expect(page).to_have_url(re.compile(r"/steer\?"))
    expect(page.locator("#prompt")).to_have_value("def main(argv):\n    return 0\n")
    hidden: list[Any] = [box.get_attribute("value") for box in page.locator(".chip [name=latent]").all()]
    assert hidden == chosen
    run(page)
    done(page)


# The smallest distance in pixels between the L0 of neighbouring tokens on one line.
_GAP = """() => {
  const boxes = [...document.querySelectorAll(".cells .l0")].map((l0) => {
    const range = document.createRange();
    range.selectNodeContents(l0);
    return range.getBoundingClientRect();
  });
  const gaps = boxes.slice(1).map((box, i) => [box, boxes[i]]).filter(([b, a]) => Math.abs(b.top - a.top) < 2)
    .map(([b, a]) => b.left - a.right);
  return Math.min(...gaps);
}"""


def test_the_l0_of_short_tokens_do_not_read_as_one_number(page: Page, server: Server) -> None:
    page.goto(f"{server.address}/inspect?sae={SAE}&text=(a,b)[c]+{{d}}*(e-f)/g;h=i")
    expect(page.locator(".cells")).to_be_visible(timeout=RUN_MS)
    assert page.evaluate(_GAP) >= 4


def test_a_phone_shows_the_contexts_of_ranked_latents(browser: Browser, server: Server) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    for query in ("text=import os, sys", "text=import os&text2=class A:"):
        page.goto(f"{server.address}/inspect?sae={SAE}&{query}")
        row = page.locator(".ranked tbody tr").first
        expect(row).to_be_visible(timeout=RUN_MS)
        context, shade = row.locator("td.wide").bounding_box(), row.locator("td").last.bounding_box()
        assert context is not None
        assert shade is not None
        assert context["width"] > 100
        assert shade["x"] + shade["width"] <= 390 - 12
        picture(page, "inspect-phone.png")
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_lab_fits_and_can_be_read(browser: Browser, server: Server, latents: list[int], width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(f"{server.address}/steer?sae={SAE}&latent={latents[0]}&latent={latents[1]}&strength=3&length=16")
    run(page)
    done(page)
    page.locator("#steered a.t").nth(14).click()
    expect(page.locator("#next-tokens table")).to_have_count(2, timeout=RUN_MS)
    paths = {"inspecting": f"/inspect?sae={SAE}&rank=sum&dense=1&text=import os, sys",
             "differences": f"/inspect?sae={SAE}&text=import os&text2=class A:"}
    for name in ("steered", *paths):
        if name in paths:
            page.goto(server.address + paths[name])
            expect(page.locator(".cells").first).to_be_visible(timeout=RUN_MS)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            ratio, text = page.evaluate(_CONTRAST)
            assert ratio >= 4.5, f"{name}, {scheme}: {text!r} has a contrast of {ratio:.2f}"
            picture(page, f"{name}-{width}-{scheme}.png")
    page.close()
