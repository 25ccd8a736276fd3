"""Tests of the stars of users: each user has their own."""

from __future__ import annotations

from alembic import command
from sqlalchemy import Engine, text

from app.access import accounts
from app.db.engine import SessionFactory, alembic_config, upgrade
from app.library import stars

SAE, OTHER = "demo/one", "demo/two"


def test_stars_are_a_persons_own(sessions: SessionFactory) -> None:
    with sessions() as db:
        ada, eve = (accounts.set_password(db, name, "correct horse") for name in ("ada", "eve"))
        for user, sae_id, latent in ((ada, SAE, 3), (ada, SAE, 3), (ada, OTHER, 4), (eve, SAE, 5)):
            stars.put(db, user, sae_id, latent, on=True)
            db.commit()
        assert (stars.of_user(db, ada, SAE), stars.of_user(db, eve, SAE)) == ({3}, {5})
        assert stars.of_anyone(db, SAE) == {3, 5}
        assert stars.of_saes(db, ada, {SAE, OTHER}) == {(SAE, 3), (OTHER, 4)}
        stars.put(db, ada, SAE, 3, on=False)
        stars.put(db, ada, SAE, 99, on=False)
        db.commit()
        assert stars.of_user(db, ada, SAE) == frozenset()


def test_stars_of_an_older_database_stay(engine: Engine, sessions: SessionFactory) -> None:
    with sessions() as db:
        root = accounts.set_password(db, "root", "correct horse")
        ada = accounts.add_user(db, "ada", "correct horse")
    command.downgrade(alembic_config(engine), "api_tokens")
    with engine.begin() as connection:
        for latent, author, starred in ((3, "ada", True), (4, "gone", True), (5, "ada", False)):
            connection.execute(text(
                "INSERT INTO labels (sae_id, latent, text, starred, note, tags, author, updated, version)"
                " VALUES (:sae, :latent, '', :starred, '', '', :author, 5.0, 0)"),
                {"sae": SAE, "latent": latent, "author": author, "starred": starred})
    upgrade(engine)
    with sessions() as db:
        assert (stars.of_user(db, ada, SAE), stars.of_user(db, root, SAE)) == ({3}, {4})
    command.downgrade(alembic_config(engine), "api_tokens")
    upgrade(engine)
