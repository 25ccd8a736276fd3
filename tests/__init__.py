"""The tests.  `ROOT` is the checkout; `FIXTURES` holds files as other programs write them."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
