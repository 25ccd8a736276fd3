"""The members of a list as its page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import HTTPException
from sqlalchemy.orm import Session

from app.db.people_tables import LatentList, ListMember
from app.db.tables import Label, Sae
from app.library import labels, lists
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.library.latent_names import names_of
from app.pages.explore.latent_views import snippet
from app.render.token_text import Row
from sae.errors import UserError


@dataclass(frozen=True)
class MemberRow:
    """A member: its name (label, best explanation or good rule), and its strongest context.

    Without an index it has no context, and only its label as a name.
    """

    member: ListMember
    name: str
    snippet: Row | None
    here: bool  # whether its SAE is here


def find_list(db: Session, list_id: str) -> LatentList:
    """Return the list at this address.  Raises 404."""
    found = lists.find(db, list_id) if len(list_id) <= 20 else None
    if found is None:
        raise HTTPException(404, "There is no list at this address. It may have been deleted.")
    return found


def labels_of(db: Session, members: Sequence[ListMember]) -> dict[tuple[str, int], Label]:
    """Return the labels of members by SAE and latent."""
    by_sae: dict[str, list[int]] = {}
    for one in members:
        by_sae.setdefault(one.sae_id, []).append(one.latent)
    return labels.of_saes(db, by_sae)


def member_rows(db: Session, catalog: Catalog, builds: Builds, members: Sequence[ListMember]) -> list[MemberRow]:
    """Return the members in their order, each with what is known of its latent."""
    written = labels_of(db, members)
    known: dict[tuple[str, int], tuple[str, Row | None]] = {}
    saes = {sae_id: catalog.get_sae(sae_id) for sae_id in {one.sae_id for one in members}}
    for sae in saes.values():
        if sae is not None:
            known |= _known(db, builds, sae, [one.latent for one in members if one.sae_id == sae.id])
    rows = []
    for one in members:
        place = one.sae_id, one.latent
        name, context = known.get(place, ("", None))
        label = written[place].text if place in written else ""
        rows.append(MemberRow(one, name or label, context, here=saes[one.sae_id] is not None))
    return rows


def _known(
    db: Session, builds: Builds, sae: Sae, latents: Sequence[int],
) -> dict[tuple[str, int], tuple[str, Row | None]]:
    if sae.current_build is None:
        return {}
    try:
        with builds.use(sae.id, sae.current_build) as build:
            contexts, names = build.snippets(latents), names_of(db, build, sae.id, latents)
            return {(sae.id, one): (names.get(one, ""), snippet(
                contexts.get(one), build.vocabulary, build.facts(one, "max_act").get("max_act"))) for one in latents}
    except UserError:  # the SAE's own pages say so
        return {}
