"""Every page, light and dark, wide and narrow, with and without JavaScript: it fits, reads, and axe finds nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import httpx
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import SMALL, Server, picture
from tests.forked_runs import carry_out

pytestmark = pytest.mark.browser

SAE, OTHER = "demo/2-res-batchtopk-512", "demo/beside"
SHORT = ["--tokens", "20480", "--eval-tokens", "2000", "--ce-tokens", "500", "--index-tokens", "20000"]
TEXT = "def read(path):\n    with open(path) as f:\n        return f.read()"


@pytest.fixture(scope="module")
def paths(server: Server) -> dict[str, str]:
    """Name -> address of every page, each with something to see where it can have it."""
    carry_out(server.home, [["train", "--name", "beside", "--architecture", "topk", *SMALL, *SHORT],
                            ["compare", "--a", SAE, "--b", OTHER, "--compare-tokens", "10000"]])
    with httpx.Client(base_url=server.address, timeout=120, headers={"Sec-Fetch-Site": "same-origin"}) as client:
        rows = client.get(f"/{SAE}/latents.json?sort=density&dir=desc&limit=512").json()["latents"]
        busy = next(row["latent"] for row in rows if row["density"] < 0.02)
        dead = client.get(f"/{SAE}/latents.json?flag=dead").json()["latents"]
        context = client.get(f"/{SAE}/{busy}.json").json()["contexts"][0]["ctx"]
        form = {"sae": SAE, "latent": busy, "mode": "add", "strength": "4", "prompt": "def ", "length": "8"}
        steered, sweep = (
            client.post(path, data=form | {"sweep": "1 4"}).headers["location"] for path in ("/steer", "/steer/sweep"))
        for address in (steered, sweep):
            while client.get(f"{address}.json").json()["state"] in ("queued", "running"):
                time.sleep(0.2)
        run = next(one["id"] for one in client.get("/api/runs").json() if one["kind"] == "train")
    latent = f"/{SAE}/{busy}"
    return {
        "home": "/", "sae": f"/{SAE}", "map": f"/{SAE}/map?colour=cluster&q=self", "latents": f"/{SAE}/latents",
        "latents-columns": f"/{SAE}/latents?columns=density,mean,l0,cosine,position,rule,phi",
        "guide": "/docs/steering", "guide-search": "/docs?q=latent", "curves": f"/runs/curves?line={run}",
        "latent-bin": f"{latent}?bin=30",
        "latents-token": f"/{SAE}/latents?token=self&sort=lift&dir=desc",
        "latents-none": f"/{SAE}/latents?label=nothing",
        "latent": latent, "latent-lines": f"{latent}?window=full&nl=1", "latent-zoomed": f"{latent}?acts=0.5&acts=3",
        "latent-dead": f"/{SAE}/{dead[0]['latent']}" if dead else latent, "embed": f"{latent}?embed=1",
        "document": f"{latent}/source/{context}", "effects": f"/effects{latent}",
        "own-text": f"/inspect{latent}?text={quote(TEXT)}", "tokens": f"/{SAE}/tokens?with={OTHER}",
        "token": f"/{SAE}/tokens/0/5", "compare": f"/compare?a={SAE}&b={OTHER}", "compare-none": "/compare",
        "inspect": "/inspect", "inspected": f"/inspect?sae={SAE}&text={quote(TEXT)}&at=3",
        "inspected-two": f"/inspect?sae={SAE}&with={OTHER}&text={quote(TEXT)}",
        "steer": f"/steer?sae={SAE}&latent={busy}",
        "steered": steered, "sweep": sweep, "runs": "/runs", "run": f"/runs/{run}",
        "search": "/search?q=return", "search-none": "/search?q=zzzz", "api": "/api/docs", "login": "/login",
        "not-found": f"/{SAE}/99999", "unknown": "/demo/none"}


ADMIN = {"admin": "/admin", "train": "/admin/train", "sweep-form": "/admin/sweep", "index-form": "/admin/index",
         "import": "/admin/import", "evaluate-form": "/admin/evaluate", "users": "/admin/users",
         "account": "/account", "manage-sae": f"/admin/saes/{SAE}", "delete-sae": f"/admin/saes/{SAE}/delete"}
FAULTS = {"not-found", "unknown"}
# Pages of a template and style that another page has too: axe, which takes longest of all, reads them once.
VARIANTS = {
    "latents-columns", "latents-token", "latent-bin", "latent-lines", "latent-zoomed", "latent-dead", "search-none",
    "inspected-two", "sweep-form", "index-form", "evaluate-form", "unknown"}
# Rows after the first few are like those; axe would spend most of its time on them.
ROWS_ALIKE = "tbody tr:nth-child(n+9)"

# Marks two elements of each look for axe, which needs long for the contrast of a text: those whose text has the same
# colour and size, in elements of the same kinds and backgrounds, have the same contrast.
_ONE_OF_EACH_LOOK = f"""() => {{
  const numbers = new Map(), grounds = new Map(), seen = new Map();
  const number = (...key) => {{
    const text = key.join("|");
    if (!numbers.has(text)) numbers.set(text, numbers.size);
    return numbers.get(text);
  }};
  const ground = (e) => {{
    if (e && !grounds.has(e)) {{
      const style = getComputedStyle(e);
      grounds.set(e, number(ground(e.parentElement), e.localName, e.getAttribute("class"), style.backgroundColor,
                            style.backgroundImage, style.opacity));
    }}
    return grounds.get(e);
  }};
  for (const e of document.body.querySelectorAll("*:not({ROWS_ALIKE} *)")) {{
    const text = [...e.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!(text || e.matches("input, select, textarea")) || !e.checkVisibility()) continue;
    const style = getComputedStyle(e);
    const look = number(ground(e), style.color, style.fontSize, style.fontWeight, style.textShadow,
                        e.closest(":disabled, [aria-disabled=true]") !== null);
    seen.set(look, (seen.get(look) ?? 0) + 1);
    if (seen.get(look) <= 2) e.dataset.look = look;
  }}
  axe.configure({{ rules: [{{ id: "color-contrast", selector: "[data-look]" }}] }});
}}"""

# The texts of controls that cover a part of another one.
_OVERLAPPING = """() => {
  const seen = [...document.querySelectorAll("main :is(button, input, select, textarea, a.button)")]
    .filter((control) => control.checkVisibility() && control.type !== "hidden")
    .map((control) => [control, control.getBoundingClientRect()]);
  const name = (control) => control.outerHTML.slice(0, 90);
  return seen.flatMap(([one, a], i) => seen.slice(i + 1)
    .filter(([, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
                       && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
    .map(([two]) => `${name(one)} and ${name(two)}`));
}"""


def visit(page: Page, server: Server, name: str, path: str, width: int) -> None:
    """Open a page; it must have a heading and fit into the window."""
    response = page.goto(server.address + path)
    assert response is not None
    assert response.status == (404 if name in FAULTS else 200), path
    fits(page, path, width)


def fits(page: Page, path: str, width: int) -> None:
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{path} is wider than the window"
    assert page.evaluate(_OVERLAPPING) == [], f"controls of {path} cover each other"


def faults(page: Page, name: str, each_look: bool) -> list[str]:
    """What axe finds on a page, in the contrast of two texts of each look or of all."""
    page.evaluate(AXE_SCRIPT)
    if each_look:
        page.evaluate(_ONE_OF_EACH_LOOK)
    found = page.evaluate("(alike) => axe.run({exclude: [[alike]]}, {resultTypes: ['violations']})", ROWS_ALIKE)
    return [f"{name}: {rule['id']}: {node['html'][:120]}" for rule in found["violations"] for node in rule["nodes"][:3]]


def a_list(page: Page, server: Server) -> str:
    """Make a list with one latent, and return its address."""
    origin = {"Origin": server.address}
    made = page.request.post(f"{server.address}/lists", form={"name": "loops"}, headers=origin, max_redirects=0)
    place = made.headers["location"].partition("?")[0]
    page.request.post(f"{server.address}{place}/latents", headers=origin, max_redirects=0,
                      form={"sae": SAE, "latent": "3", "note": "a note"})
    return place


@contextmanager
def reader(browser: Browser, server: Server, width: int, scheme: str) -> Iterator[Page]:
    """A page of an administrator that must log no error but those of pages that are not there."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page, problems = context.new_page(), list[str]()
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    server.sign_in(page)
    yield page
    context.close()
    assert [text for text in problems if "404" not in text] == []


def test_every_page_fits_and_axe_finds_nothing(browser: Browser, server: Server, paths: dict[str, str]) -> None:
    """Each page is read wide and light, and then made narrow and dark, which is quicker than to load it again."""
    found = list[str]()
    with reader(browser, server, 1280, "light") as page:
        for name, path in (paths | ADMIN | {"list": a_list(page, server)}).items():
            page.set_viewport_size({"width": 1280, "height": 900})
            page.emulate_media(color_scheme="light")
            visit(page, server, name, path, 1280)
            picture(page, f"{name}-1280-light.jpg")
            if name not in VARIANTS:
                found += faults(page, name, each_look=True)
            page.set_viewport_size({"width": 390, "height": 900})
            page.emulate_media(color_scheme="dark")
            if page.locator("[data-narrow-closed]").count():  # its scripts look at the width when it is loaded
                page.reload()
            fits(page, path, 390)
            picture(page, f"{name}-390-dark.jpg")
    assert not found, "\n".join(found)


@pytest.mark.heavy
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_in_any_text(
    browser: Browser, server: Server, paths: dict[str, str], width: int, scheme: str
) -> None:
    found = list[str]()
    with reader(browser, server, width, scheme) as page:
        for name, path in (paths | ADMIN | {"list": a_list(page, server)}).items():
            visit(page, server, name, path, width)
            picture(page, f"{name}-{width}-{scheme}.jpg")
            found += faults(page, name, each_look=False)
    assert not found, "\n".join(found)


def test_every_page_reads_without_javascript(browser: Browser, server: Server, paths: dict[str, str]) -> None:
    context: BrowserContext = browser.new_context(viewport={"width": 390, "height": 900}, java_script_enabled=False)
    page = context.new_page()
    for name, path in paths.items():
        response = page.goto(server.address + path)
        assert response is not None
        assert response.status == (404 if name in FAULTS else 200), path
        assert page.locator("h1").first.is_visible(), path
        assert len(page.locator("main").inner_text()) > 20, path
    context.close()
