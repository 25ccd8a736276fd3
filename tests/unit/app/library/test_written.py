"""What is stored about a latent, by kind."""

from __future__ import annotations

from app.db.engine import SessionFactory
from app.library import comments, labels, written
from app.library.catalog import Catalog
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH, write_sae


def test_each_kind_is_known_apart(sessions: SessionFactory, workspace: Workspace, catalog: Catalog) -> None:
    write_sae(workspace, BATCH)
    catalog.sync()
    with sessions() as db:
        assert not any(written.about(db, BATCH, 3))
        comments.write(db, BATCH, 3, "seen", "ada")
        assert written.about(db, BATCH, 3) == (False, False, False, False, True, False, False)
        labels.save(db, BATCH, 3, "ada", text="first")
        labels.save(db, BATCH, 3, "eve", text="second")
        found = written.about(db, BATCH, 3)
        assert found.label
        assert found.earlier
        assert not found.listed
        assert found.any_explained, "a label is an explanation"
        assert not any(written.about(db, BATCH, 4)[:-1])
