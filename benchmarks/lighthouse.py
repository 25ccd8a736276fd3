"""Lighthouse's accessibility score of every page, signed out and as an administrator, on a desktop and on a phone.

    python -m benchmarks.lighthouse [--address http://127.0.0.1:8000 --name ada --password …] [--only latents] [--json]

Without an address the benchmark starts a server on a small made-up index.  The pages are found by following links:
one page is taken for each route of the program.  It needs Node.js, Chromium and Lighthouse, which is not installed
with saescope: run `npm install lighthouse` in any folder, and set LIGHTHOUSE to that folder.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx
from fastapi.routing import APIRoute

import app.main
from benchmarks import synthetic
from benchmarks._report import bar, emit, table
from benchmarks.pages import serving

# The screens of Lighthouse's presets.
DEVICES: dict[str, dict[str, Any]] = {
    "desktop": {"width": 1350, "height": 940, "mobile": False}, "mobile": {"width": 412, "height": 823, "mobile": True}}
VISITORS = ("signed out", "administrator")
NAME, PASSWORD = "lighthouse", "only for this benchmark"
UNLINKED = ("/search?q=self", "/search/text?q=self", "/inspect?text=def%20read(path):", "/nothing/is/here/at/all")
LINK = re.compile(r'(?:href|src)="([^"#]+)')


class Lighthouse:
    """The process that audits pages, one after another."""

    def __init__(self, folder: str) -> None:
        script = Path(__file__).with_suffix(".mjs")
        self._process = subprocess.Popen(
            ["node", str(script), folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def audit(self, address: str, cookie: str, device: str) -> dict[str, Any]:
        """Return `score` (0 to 100) and `wrong`, a line for each fault."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"address": address, "cookie": cookie} | DEVICES[device]) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate(timeout=60)


def pages(client: httpx.Client) -> list[str]:
    """Follow links from the home page, and return the first HTML page found of each route."""
    routes = [route for module in app.main._MODULES for route in module.router.routes
              if isinstance(route, APIRoute) and "GET" in route.methods]
    waiting, seen, found = ["/", *UNLINKED], set[str](), list[str]()
    while waiting:
        path = waiting.pop(0)
        route = next((one.path for one in routes if one.path_regex.match(urlsplit(path).path)), "")
        if route in seen:
            continue
        seen.add(route)
        answer = client.get(path)
        if not answer.headers.get("content-type", "").startswith("text/html") or "<html" not in answer.text:
            continue  # a part of a page, a file, or a redirect
        found.append(path)
        links = (urljoin(path, link.replace("&amp;", "&")) for link in LINK.findall(answer.text))
        waiting += [link for link in links if link.startswith("/") and not link.startswith(("/static/", "//"))]
    return found


@contextmanager
def own_server(folder: Path) -> Iterator[str]:
    """Serve a small made-up index with one administrator, and yield the address."""
    home = folder / "1024"
    synthetic.make(home, 1024)
    program = Path(sys.executable).parent / "saescope"
    subprocess.run([str(program), "create-admin", "--name", NAME, "--password", PASSWORD],
                   env={**os.environ, "SAESCOPE_HOME": str(home)}, check=True, stdout=subprocess.DEVNULL)
    with serving(home) as port:
        yield f"http://127.0.0.1:{port}"


def measure(lighthouse: Lighthouse, address: str, name: str, password: str, only: str) -> list[dict[str, Any]]:
    """Return one row for each page, visitor and device."""
    rows = []
    with httpx.Client(base_url=address, timeout=120, headers={"Accept": "text/html", "Origin": address}) as client:
        for visitor in VISITORS:
            if visitor == "administrator":
                client.post("/login", data={"name": name, "password": password})
                if not client.cookies:
                    raise SystemExit(f"{name} cannot sign in at {address}")
            cookie = "; ".join(f"{key}={value}" for key, value in client.cookies.items())
            for path in (path for path in pages(client) if only in path):
                for device in DEVICES:
                    found = lighthouse.audit(address + quote(path, safe="/?=&%,:@+"), cookie, device)
                    rows.append({"page": path, "visitor": visitor, "device": device} | found)
                    print(f"{found['score']:5.0f}  {visitor:13}  {device:7}  {path}", *found["wrong"], sep="\n       ",
                          file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a running server; default: start one")
    parser.add_argument("--name", default=NAME, help="an administrator of that server")
    parser.add_argument("--password", default=PASSWORD)
    parser.add_argument("--only", default="", help="only pages whose path contains this")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "saescope-lighthouse")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = os.environ.get("LIGHTHOUSE")
    chromium = os.environ.get("CHROME_PATH") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not folder or not chromium or not shutil.which("node"):
        print("Node.js, Chromium or Lighthouse is not installed here, so nothing was measured (see --help).")
        return
    os.environ["CHROME_PATH"] = chromium
    with nullcontext(options.address) if options.address else own_server(options.folder) as address:
        lighthouse = Lighthouse(folder)
        rows = measure(lighthouse, address.rstrip("/"), options.name, options.password, options.only)
        lighthouse.close()
    if not options.json:
        print(table(["page", "visitor", "device", "accessibility", "found"],
                    [[f"`{row['page']}`", row["visitor"], row["device"], f"{row['score']:.0f}", "; ".join(row["wrong"])]
                     for row in rows]))
    lowest = min((row["score"] for row in rows), default=0)
    goal = bar("lowest accessibility score of a page", lowest, "= 100", lowest == 100)
    emit("lighthouse", rows, [goal], options.json)


if __name__ == "__main__":
    main()
