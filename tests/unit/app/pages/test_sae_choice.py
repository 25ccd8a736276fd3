"""SAEs that something can be computed with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from app.pages.sae_choice import computable_saes


def sae(name: str, fvu: Any = None, **changes: Any) -> Any:
    usual = {"current_build": "build-1", "weightless": False, "hidden": False}
    return SimpleNamespace(id=name, config={} if fvu is None else {"metrics": {"fvu": fvu}}, **(usual | changes))


def test_the_best_one_comes_first_and_those_without_index_or_weights_not_at_all() -> None:
    newest_first = [
        sae("unknown-new"), sae("bad", 0.9), sae("no-index", 0.01, current_build=None), sae("good", 0.1),
        sae("foreign", 0.01, weightless=True), sae("equal", 0.9), sae("broken", float("nan")), sae("words", "0.001"),
        sae("hidden", 0.01, hidden=True)]
    catalog: Any = SimpleNamespace(list_saes=lambda: newest_first)
    assert [row.id for row in computable_saes(catalog)] == [
        "good", "bad", "equal", "unknown-new", "broken", "words", "hidden"]
