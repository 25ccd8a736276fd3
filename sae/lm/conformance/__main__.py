"""The table of architectures as Markdown: `python -m sae.lm.conformance docs/models.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from sae.lm.conformance.architectures import table

if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table(), encoding="utf-8")
