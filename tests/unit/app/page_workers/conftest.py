"""The browsable program, whose workspace the page workers open as well."""

from tests.unit.app.pages.conftest import browsable, made

__all__ = ["browsable", "made"]
