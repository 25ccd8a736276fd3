"""Text that tries to act: markup, bidirectional marks, control characters.  It is shown, and does nothing."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.conftest import Server, picture, until
from tests.forked_runs import carry_out

pytestmark = pytest.mark.browser

SAE = "/demo/hostile"
BLOCK = (
    '<script>document.title = "owned"; alert(1)</script> <img src=x onerror="document.title=\'owned\'">'
    " <b onmouseover=steal()>b</b> &amp; {{ 7*7 }} {% raw %} </span></div></table><!-- ]]> javascript:alert(1)\n"
    "\u202ereversed\u202c \u2066isolated\u2069 \u200f \u200e \u061c עברית العربية\n"
    "日本語のテキスト 🙂🦊 👩\u200d👩\u200d👧 e\u0301 \ufeff\u200b\n"
    "\x01\x07\x08\x0b\x0c\x1b[31mred \x7f \x85 \u2028 \u2029\r\n tab\tend \u3000 \ue000\n")
SMALL = ["--n-latents", "128", "--k", "8", "--tokens", "20000", "--batch-tokens", "512", "--buffer-tokens", "8192",
         "--context-length", "64", "--eval-tokens", "1000", "--ce-tokens", "500", "--index-tokens", "15000"]

# What a page must not hold as it is: characters that are not seen but act on the text around them.
_RAW = r"""() => {
  const raw = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walk.nextNode()) {
    const node = walk.currentNode;  // a form holds what was typed, as it was typed
    if (raw.test(node.data) && node.parentElement.tagName !== "TEXTAREA") found.push(node.data);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Server:
    """The program with an SAE of hostile text, in files with hostile names."""
    folder = tmp_path_factory.mktemp("text")
    files = {
        "a.txt": BLOCK * 12, "b.txt": BLOCK * 9, "long.txt": "x" * 10_000 + "\n" + "<b>" * 3_333 + "\n",
        "<script>alert(1)<!-- \u202eeman.txt": BLOCK * 6, "line\nbreak.txt": BLOCK * 3, "empty.txt": "",
        "one.txt": "word",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    (folder / "binary.txt").write_bytes(b"\0" * 3000)
    carry_out(server.home, [["train", "--text", str(folder), "--name", "hostile", *SMALL]])
    until(lambda: httpx.get(f"{server.address}{SAE}/latents.json").is_success)  # it looks for SAEs every few seconds
    return server


def test_hostile_text_is_shown_and_does_nothing(page: Page, hostile: Server) -> None:
    elsewhere: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith((hostile.address, "data:")):
            elsewhere.append(request.url)

    dialogs: list[str] = []
    page.on("request", note)
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    listed = httpx.get(f"{hostile.address}{SAE}/latents.json?flag=alive&limit=200").json()["latents"]
    assert len(listed) > 20
    seen = ""
    paths = ["/", SAE, f"{SAE}/latents", f"{SAE}/tokens?samples=all", "/search?q=%3Cscript%3E%E2%80%AE",
             f"{SAE}/latents?token=%3C%E2%80%AE", f"/steer?sae={SAE[1:]}&latent={listed[0]['latent']}",
             *(f"{SAE}/{row['latent']}?window=full&nl=1" for row in listed[:12])]
    paths += [f"/inspect?sae={SAE[1:]}&text=nul%00%E2%80%AE{'x' * 600}&at=2",
              f"/inspect{SAE}/{listed[0]['latent']}?text=nul%00%3Cscript%3E"]
    for path in paths:
        response = page.goto(hostile.address + path)
        assert response is not None
        assert response.status == 200, path
        expect(page.locator("main")).not_to_contain_text("asking the model worker", timeout=60_000)
        assert "owned" not in page.title(), path
        assert page.locator("img[onerror], b[onmouseover], script:not([src])").count() == 0, path
        assert page.evaluate(_RAW) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280, path
        seen += page.locator("main").inner_text()
    picture(page, "hostile.png", full=False)
    for shown in ("<script>", "{{ 7*7 }}", "⟨202E⟩reversed⟨202C⟩", "日本語", "🙂", "⟨1B⟩[31mred", "tab→end", "⟨0D⟩↵",
                  "nul⟨00⟩"):
        assert shown in seen, shown
    assert elsewhere == dialogs == []


def test_hostile_text_is_steered_with(page: Page, hostile: Server) -> None:
    latents = httpx.get(f"{hostile.address}{SAE}/latents.json?flag=alive&limit=1").json()["latents"]
    page.goto(f"{hostile.address}/steer?sae={SAE[1:]}&latent={latents[0]['latent']}")
    prompt = '</textarea><script>document.title = "owned"</script> \u202e日本 🙂'
    page.locator("textarea[name=prompt]").fill(prompt)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text(re.compile(r"^done|finished", re.I)).first).to_be_visible(timeout=60_000)
    expect(page.locator("#baseline")).to_contain_text('</textarea><script>document.title = "owned"</script>')
    expect(page.locator("#baseline")).to_contain_text("⟨202E⟩日本 🙂")
    page.reload()  # the permalink replays it
    expect(page.locator("textarea[name=prompt]")).to_have_value(prompt)
    expect(page.locator("#baseline")).to_contain_text("⟨202E⟩日本 🙂")
    assert "owned" not in page.title()
