"""The folders of templates, static files, migrations and guide: next to `app` in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_APP = Path(__file__).resolve().parent
_ROOT = _APP if (_APP / "templates").is_dir() else _APP.parent
TEMPLATES, STATIC, MIGRATIONS = _ROOT / "templates", _ROOT / "static", _ROOT / "migrations"
GUIDE = _ROOT / "guide" if _ROOT == _APP else _ROOT / "docs" / "guide"
