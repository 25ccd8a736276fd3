"""The report of a reproduction: one self-contained HTML page, and the same content as JSON."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import torch

from sae import __version__
from sae.reproduce.claims import Claim
from sae.reproduce.figures import Figure, legend, svg
from sae.reproduce.paper import Paper
from sae.reproduce.results import Results, Row, Spread
from sae.reproduce.setup import Cell, Setup
from sae.workspace.files import atomic_write, write_json

_COLUMNS = (("fvu", "NMSE", ".4f"), ("delta_ce", "ΔCE (nats)", ".3f"), ("ce_recovered_zero", "CE recovered", ".3f"),
            ("l0", "L0", ".1f"), ("bos_l0", "L0 of BOS", ".1f"), ("dead_fraction", "dead", ".3f"))
_DEFINITIONS = (
    "NMSE is Σ‖x − x̂‖² / Σ‖x − mean‖² over held-out tokens without BOS. ΔCE is the language model's cross-entropy "
    "with the activations replaced by their reconstruction minus the clean one, in nats per predicted token. CE "
    "recovered is (CE of zero ablation − CE with the SAE) / (CE of zero ablation − clean CE). Dead latents fire on "
    "none of the held-out tokens. An interval is the 95% interval of the mean over seeds by Student's t. Differences "
    "are paired by seed, because a seed gives all SAEs the same start and the same batches. A claim that one SAE is "
    "better is reproduced only if every setting's interval is on its side. The intervals are not widened for the "
    "number of settings.")


def write(paper: Paper, setup: Setup, cells: Sequence[Cell], rows: Sequence[Row], command: str, folder: Path
          ) -> tuple[Path, Path]:
    """Write `<paper>.html` and `<paper>.json` into the folder and return their paths."""
    results = Results(rows)
    content = Content(paper, setup, cells, results, command)
    page, data = folder / f"{paper.name}.html", folder / f"{paper.name}.json"
    write_json(data, content.record())
    with atomic_write(page) as temporary:
        temporary.write_text(content.html(), encoding="utf-8")
    return page, data


class Content:
    """Everything that a report says."""

    def __init__(self, paper: Paper, setup: Setup, cells: Sequence[Cell], results: Results, command: str) -> None:
        self.paper, self.setup, self.cells, self.results, self.command = paper, setup, cells, results, command
        self.claims: list[Claim] = paper.claims(results, setup)
        self.figures: list[Figure] = [figure for figure in paper.figures(results, setup)
                                      if any(line.points for line in figure.lines)]

    def record(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "paper": {"name": self.paper.name, "title": self.paper.title, "reference": self.paper.reference},
            "command": self.command, "date": datetime.date.today().isoformat(), "saescope_version": __version__,
            "machine": machine(), "settings": self.setup.model_dump(mode="json"), "differs": self.paper.differs,
            "definitions": _DEFINITIONS, "claims": [asdict(claim) for claim in self.claims],
            "figures": [asdict(figure) for figure in self.figures], "rows": self.results.rows,
            "failed": self.results.failed}

    def html(self) -> str:
        """Return the page."""
        count = {verdict: sum(claim.verdict == verdict for claim in self.claims)
                 for verdict in ("reproduced", "not reproduced", "not tested here")}
        s = self.setup
        failed = "".join(f"<p>{escape(row['kind'])}, seed {row['seed']} failed: {escape(row['error'])}</p>"
                         for row in self.results.failed)
        body = f"""<h1>{escape(self.paper.title)}, reproduced</h1>
<p>{escape(self.paper.reference)}. {", ".join(f"{n} {verdict}" for verdict, n in count.items())}.</p>
<h2>Claims</h2>
{self._claims()}
<h2>Figures</h2>
<div class="figures">{"".join(_figure(figure) for figure in self.figures)}</div>
<h2>All SAEs</h2>
<p>Means over {s.seeds} {"seed" if s.seeds == 1 else "seeds"} ± standard deviation.</p>
{self._cells()}{failed}
<h2>How it was made</h2>
<pre>{escape(self.command)}</pre>
<p>Language model {escape(s.model)}, text {escape(s.text)}, <code>blocks.{s.layer}.hook_resid_post</code>; every SAE
saw {s.tokens:,} activations in {s.tokens // s.batch_tokens:,} steps of {s.batch_tokens:,}. saescope {__version__},
{datetime.date.today().isoformat()}; {escape(machine())}; {self._minutes():.0f} minutes for training and measuring.</p>
<p>{escape(self.paper.differs)}</p>
<p>{escape(_DEFINITIONS)}</p>"""
        title = escape(f"{self.paper.title}, reproduced")
        return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
                f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
                f"<body><main>\n{body}\n</main></body></html>\n")

    def _minutes(self) -> float:
        """Return the minutes that all seeds took, without what was done before an interruption."""
        longest: dict[int, float] = {}
        for row in self.results.rows:
            longest[row["seed"]] = max(longest.get(row["seed"], 0.0), row.get("seconds_of_seed", 0.0))
        return sum(longest.values()) / 60

    def _claims(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(claim.says)} <span class='where'>{escape(claim.where)}</span></td>"
            f"<td>{escape(claim.found)}</td><td class='{claim.verdict.split()[0]}'>{escape(claim.verdict)}</td></tr>"
            for claim in self.claims)
        return ("<div class='wide'><table class='claims'><thead><tr><th>The paper says</th><th>Found here</th>"
                f"<th>Verdict</th></tr></thead><tbody>{rows}</tbody></table></div>")

    def _cells(self) -> str:
        head = "".join(f"<th>{name}</th>" for _, name, _ in _COLUMNS)
        rows = []
        for cell in self.cells:
            own = [row for row in self.results.rows if row["cell"] == cell.model_dump()]
            if own:
                shown = (_mean_and_sd(Spread.of(float(row[key]) for row in own), form) for key, _, form in _COLUMNS)
                rows.append(f"<tr><td>{escape(cell.label)}</td>{''.join(f'<td>{text}</td>' for text in shown)}</tr>")
        return (f"<div class='wide'><table class='cells'><thead><tr><th>SAE</th>{head}</tr></thead>"
                f"<tbody>{''.join(rows)}</tbody></table></div>")


def machine() -> str:
    """Return the processor, the number of cores and the version of torch, in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores{gpu}, torch {torch.__version__}"


def _mean_and_sd(spread: Spread, form: str) -> str:
    return f"{spread.mean:{form}}" + (f" ± {spread.sd:{form}}" if spread.sd is not None else "")


def _figure(figure: Figure) -> str:
    rows = "".join(
        f"<tr><td>{escape(line.name)}</td><td>{x:,.5g}</td><td>{s.text('.4g')}</td></tr>"
        for line in figure.lines for x, s in line.points)
    return (f"<figure><figcaption><b>{escape(figure.title)}</b></figcaption>{svg(figure)}{legend(figure)}"
            f"<p class='caption'>{escape(figure.caption)}</p><details><summary>Data</summary><div class='wide'><table>"
            f"<thead><tr><th></th><th>{escape(figure.x_label)}</th><th>{escape(figure.y_label)}</th></tr></thead>"
            f"<tbody>{rows}</tbody></table></div></details></figure>")


_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b6470; --line: #dfe3e8; --page: #fff;
  --s0: #b4530a; --s1: #0b62c4; --s2: #18794e; --s3: #8e3fb0; --s4: #c0264b; --s5: #5a5f66; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3acb8; --line: #343a42; --page: #14171a;
  --s0: #f5a15c; --s1: #70b2ff; --s2: #5fce9a; --s3: #d29cf0; --s4: #ff8aa3; --s5: #b5bcc6; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { margin-top: 2.2rem; font-size: 1.2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 6px 10px 6px 0; text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; } .cells td, .cells th { white-space: nowrap; }
.claims td:first-child { width: 34%; min-width: 13rem; } .claims td:nth-child(2) { min-width: 16rem; }
.claims td:last-child { white-space: nowrap; font-weight: 600; } .where, .caption { color: var(--soft); }
.where { display: block; font-size: .87rem; } td.reproduced { color: var(--s2); } td.not { color: var(--ink); }
@media (max-width: 640px) { .claims thead { display: none; }
  .claims, .claims tbody, .claims tr, .claims td { display: block; width: auto !important; }
  .claims tr { border-bottom: 1px solid var(--line); padding: 8px 0; } .claims td { border: 0; padding: 2px 0; } }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 24px; }
figure { margin: 0; min-width: 0; } figure svg { width: 100%; height: auto; display: block; }
figure p { margin: .3rem 0; } pre { overflow-x: auto; } summary { cursor: pointer; color: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; } .legend span { white-space: nowrap; }
.legend svg.key { display: inline-block; width: 28px; height: 14px; vertical-align: -2px; }
svg text { fill: var(--soft); font-size: 12px; } svg text.label { fill: var(--ink); }
.grid { stroke: var(--line); } .mark { stroke: var(--ink); stroke-dasharray: 3 3; }
.line { fill: none; stroke-width: 1.8; } .dot { stroke: none; } .bar { stroke: none; }
""" + "".join(f".s{i}.line {{ stroke: var(--s{i}); }} .s{i}.dot, .s{i}.bar {{ fill: var(--s{i}); }} "
              f".s{i}.hollow {{ fill: var(--page); stroke: var(--s{i}); stroke-width: 1.8; }}\n" for i in range(6))
