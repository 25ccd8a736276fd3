"""The inspector's form: texts and SAEs as typed, their check, and the addresses of the result.

An inspection's address has either its stored id (`/inspect/{id}`) or its texts (`/inspect?sae=…&text=…`).  The options
of display (`DisplayOptions`) are always in the query.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import ImmutableMultiDict

from app.db.tables import Sae
from app.library.catalog import Catalog
from app.pages.find.active import text_fault
from app.pages.inspect.view import MEASURES
from app.web.parameters import whole_number
from sae.errors import UserError


@dataclass(frozen=True)
class InspectionQuery:
    """A text under one SAE or two, or two texts under one."""

    texts: tuple[str, ...]
    saes: tuple[str, ...]
    markup: str = ""  # yes, no, or as the SAE says

    @cached_property
    def id(self) -> str:
        """A digest of the query, so that the same texts have one address."""
        said = json.dumps([self.texts, self.saes, *([self.markup] if self.markup else [])])
        return f"inspect-{hashlib.sha256(said.encode()).hexdigest()[:16]}"

    def json(self) -> dict[str, Any]:
        return {"texts": list(self.texts), "saes": list(self.saes)} | ({"markup": self.markup} if self.markup else {})

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> InspectionQuery:
        return cls(tuple(stored["texts"]), tuple(stored["saes"]), stored.get("markup", ""))


@dataclass
class InspectForm:
    """The form as typed; `errors` are by field name."""

    text: str = ""
    text2: str = ""
    sae: str = ""
    beside: str = ""
    markup: str = ""
    errors: dict[str, str] = field(default_factory=dict)


def read_form(data: ImmutableMultiDict[str, Any]) -> InspectForm:
    """Return what came with an address or a POST, unchecked."""
    text, text2 = (str(data.get(name, "")).replace("\r\n", "\n") for name in ("text", "text2"))
    return InspectForm(text, text2, str(data.get("sae", "")), str(data.get("with", "")), str(data.get("markup", "")))


def form_of(asked: InspectionQuery) -> InspectForm:
    """Return the form filled with an inspection."""
    text2, beside = (one[1] if len(one) > 1 else "" for one in (asked.texts, asked.saes))
    return InspectForm(asked.texts[0], text2, asked.saes[0], beside, asked.markup)


def check(form: InspectForm, catalog: Catalog) -> InspectionQuery | None:
    """Return the query that the form makes; None where something is wrong, with every fault at its field."""
    form.sae, form.beside = catalog.present_id(form.sae), catalog.present_id(form.beside)
    sae = _find(form, "sae", form.sae, catalog)
    other = _find(form, "with", form.beside, catalog) if form.beside else None
    if sae and other and other.id == sae.id:
        form.errors["with"] = "this is the same SAE; choose another"
    elif sae and other and other.config["model"]["name"] != sae.config["model"]["name"]:
        form.errors["with"] = f"{other.id} belongs to another model than {sae.id}"
    elif other and form.text2:
        form.errors["with"] = "two texts are compared under one SAE; remove this SAE or the second text"
    texts = (form.text, form.text2) if form.text2 else (form.text,)
    for name, text in zip(("text", "text2"), texts, strict=False):
        _check_text(form, name, text, sae)
    if form.markup not in ("", "yes", "no"):
        form.errors["markup"] = "yes, no, or nothing for what the SAE says"
    if form.errors:
        return None
    return InspectionQuery(texts, (form.sae, form.beside) if other else (form.sae,), form.markup)


def _find(form: InspectForm, name: str, sae_id: str, catalog: Catalog) -> Sae | None:
    sae = catalog.get_sae(sae_id)
    if sae is None:
        form.errors[name] = f"there is no SAE {sae_id!r} here" if sae_id else "choose an SAE"
    elif sae.weightless:
        form.errors[name] = f"{sae.id} {sae.why_weightless}, so it cannot read a text"
    elif sae.current_build is None:
        form.errors[name] = f"{sae.id} has no index yet, which says what its latents are"
    return sae


def _check_text(form: InspectForm, name: str, text: str, sae: Sae | None) -> None:
    try:
        fault = text_fault(text, sae)
    except UserError as error:
        form.errors["sae"] = str(error)
        return
    if fault:
        form.errors[name] = fault


@dataclass(frozen=True)
class DisplayOptions:
    """The display of a result: its ranking, whether dense latents and special tokens count, and what is chosen.

    `of` is the side of the page (text or SAE) that the choice belongs to: `at`, the position of a token
    whose latents are listed, and `latent`, one whose activations colour the text.
    """

    rank: str = "max"
    dense: bool = False
    special: bool = False
    at: int | None = None
    latent: int | None = None
    of: int = 0
    all: bool = False

    @classmethod
    def read(cls, query: Mapping[str, str]) -> DisplayOptions:
        """Read the options from a request's query; invalid values are ignored."""

        def whole(name: str) -> int | None:
            return whole_number(query.get(name, ""))

        rank = query.get("rank", "max")
        return cls(
            rank if rank in MEASURES else "max", query.get("dense") == "1", query.get("special") == "1", whole("at"),
            whole("latent"), min(whole("of") or 0, 1), query.get("all") == "1")

    def pairs(self, **changes: Any) -> list[tuple[str, str]]:
        """Return the query's pairs after `changes`, without default values."""
        new = replace(self, **changes)
        usual = DisplayOptions()
        return [(name, str(int(value)) if isinstance(value, bool) else str(value)) for name, value in vars(new).items()
                if value != getattr(usual, name) and value is not None]


@dataclass(frozen=True)
class InspectionUrl:
    """The address of a result, from which links to other displays of it are made."""

    asked: InspectionQuery
    stored: bool
    view: DisplayOptions

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        if self.stored:
            return []
        names = zip(("text", "text2"), self.asked.texts, strict=False)
        return [*names, *zip(("sae", "with"), self.asked.saes, strict=False),
                *([("markup", self.asked.markup)] if self.asked.markup else [])]

    def link(self, suffix: str = "", **changes: Any) -> str:
        """Return the address of this result after `changes` of the display; `suffix` follows the path."""
        path = (f"/inspect/{self.asked.id}" if self.stored else "/inspect") + suffix
        query = urlencode([*self._pairs, *self.view.pairs(**changes)])
        return f"{path}?{query}" if query else path

    def token_link(self, side: int) -> str:
        """Return the address that chooses a token of a side, up to the token's position."""
        link = self.link(at=None, of=side)
        return f"{link}{'&' if '?' in link else '?'}at="
