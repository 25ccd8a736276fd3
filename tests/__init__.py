"""The tests.  `ROOT` is the checkout; `FIXTURES` has files that other programs wrote."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
