"""A real browser on a real server with a small trained SAE.  Skipped where there is no Chromium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.forked_runs import ForkServer, carry_out

TEXT_TOKENS = "300000"  # of the standard library's text: runs that read as many share one tokenised copy
SMALL = ["--n-latents", "512", "--k", "16", "--tokens", "60000", "--batch-tokens", "1024", "--buffer-tokens", "30720",
         "--eval-tokens", "3000", "--ce-tokens", "500", "--index-tokens", "40000", "--text-tokens", TEXT_TOKENS]


@dataclass
class Server:
    """A running program: its address, the one-time link to sign in, its process."""

    address: str
    admin_link: str
    pid: int
    home: Path
    cookies: list[Any] = field(default_factory=list)

    def sign_in(self, page: Page) -> None:
        """As the administrator: by the one-time link the first time, by its cookie afterwards."""
        if self.cookies:
            page.context.add_cookies(self.cookies)
        else:
            page.goto(self.admin_link)
            self.cookies = page.context.cookies()


def chromium() -> str | None:
    """Where Chromium is: `CHROMIUM` in the environment, or on the path."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium, closed after the last of these tests: its event loop would be in the way of others' in the process."""
    path = chromium()
    if path is None:
        pytest.skip("no Chromium found: install it, or name it in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def serving(home: Path) -> Iterator[Server]:
    """`saescope serve` on a workspace that has a `ForkServer`."""
    command = [sys.executable, "-c", "from tests.forked_runs import serve; serve()", "serve"]
    with open(home / "serve.log", "w") as log:
        process = subprocess.Popen(command, env=_environment(home), stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield _announced(process, home)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Server]:
    """The program with an SAE of the standard library's text."""
    home = tmp_path_factory.mktemp("home")
    with forks(home):
        carry_out(home, [["train", *SMALL]])
        with serving(home) as server:
            yield server


@contextmanager
def forks(home: Path) -> Iterator[None]:
    """Keep a process that has imported torch, which forks the commands and the runs of a workspace."""
    process = ForkServer(home)
    try:
        yield
    finally:
        process.close()


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something holds; fail if it does not hold in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "SAESCOPE_HOME": str(home), "PORT": "0", "SAESCOPE_DEMO": "false",
            "SAESCOPE_PAGE_WORKERS": "1"}


def _announced(process: subprocess.Popen[str], home: Path) -> Server:
    assert process.stdout is not None
    head = [process.stdout.readline() for _ in range(2)]
    address, link = (re.findall(r"http://\S+", line)[0] for line in head)
    return Server(address, link, process.pid, home)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a fresh profile that fails the test on any console error, which a CSP violation is too."""
    context: BrowserContext = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert problems == []


def picture(page: Page, name: str, full: bool = True) -> None:
    """Keep a picture of the page for people to look at, if `SAESCOPE_TEST_PICTURES` asks for it: drawing takes long."""
    if not os.environ.get("SAESCOPE_TEST_PICTURES"):
        return
    folder = Path("test-artifacts")
    folder.mkdir(exist_ok=True)
    page.screenshot(path=folder / name, full_page=full, **({"quality": 70} if name.endswith(".jpg") else {}))
