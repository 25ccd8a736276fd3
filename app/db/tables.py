"""The tables of the app database.  Times are Unix seconds; ids of runs sort by time.

What can be read from the workspace (metrics, curves, builds) is not kept here: `saes` mirrors
`sae.json` for quick listing, and `Catalog.sync()` sets it right whenever the folders change.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can speak of it."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {dict[str, Any]: JSON(none_as_null=True)}  # noqa: RUF012  (as SQLAlchemy reads it)


class User(Base):
    """Someone who may sign in.  Without `password_hash` only by a one-time link."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    password_hash: Mapped[str | None] = mapped_column(String(255))
    is_admin: Mapped[bool] = mapped_column(default=False)
    created: Mapped[float] = mapped_column(default=time.time)


class LoginSession(Base):
    """A signed-in browser.  `id` is the SHA-256 of the cookie, which is kept nowhere here."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created: Mapped[float] = mapped_column(default=time.time)
    expires: Mapped[float]
    browser: Mapped[str] = mapped_column(String(80), default="", server_default="")  # such as "Firefox on Linux"

    user: Mapped[User] = relationship(lazy="joined")


class LoginLink(Base):
    """A one-time sign-in link.  `id` is the SHA-256 of its secret."""

    __tablename__ = "login_links"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created: Mapped[float] = mapped_column(default=time.time)
    expires: Mapped[float]
    used: Mapped[float | None]


class Sae(Base):
    """A finished SAE of the workspace; `config` is its `sae.json`."""

    __tablename__ = "saes"

    id: Mapped[str] = mapped_column(String(170), primary_key=True)  # <model>/<name>
    model: Mapped[str] = mapped_column(String(80))
    name: Mapped[str] = mapped_column(String(80))
    architecture: Mapped[str] = mapped_column(String(40))
    n_latents: Mapped[int]
    k: Mapped[int | None]
    layer: Mapped[int]
    hook: Mapped[str] = mapped_column(String(120))
    config: Mapped[dict[str, Any]]
    current_build: Mapped[str | None] = mapped_column(String(120))
    created: Mapped[float]

    @property
    def weightless(self) -> bool:
        """Whether it is a dashboard made elsewhere: it can be browsed, but nothing can be computed with it."""
        return self.config.get("weights") == "none"


class Run(Base):
    """A run: its place in the queue and its process.  What it does is in its folder.

    States: queued → starting → running → succeeded | failed | cancelled | lost; a lost run goes
    back to queued, to go on from its last checkpoint.
    """

    __tablename__ = "runs"
    __table_args__ = (Index(None, "state", "created"),)

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    spec: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(20), default="queued")
    created: Mapped[float] = mapped_column(default=time.time)
    launched: Mapped[float | None]  # when the present (or last) process was started
    started: Mapped[float | None]  # when the first one was
    finished: Mapped[float | None]
    pid: Mapped[int | None]
    pid_started: Mapped[str | None] = mapped_column(String(80))  # tells this process from a later one with its number
    cancel_asked: Mapped[float | None]
    requested_by: Mapped[str] = mapped_column(String(80), default="")
    form_key: Mapped[str | None] = mapped_column(String(80), unique=True)  # of the form that was sent, however often
    error: Mapped[str | None] = mapped_column(Text)
    sae_id: Mapped[str | None] = mapped_column(String(170))
    progress: Mapped[float] = mapped_column(default=0.0)  # furthest share of the whole seen, 0 to 1
    requeues: Mapped[int] = mapped_column(default=0)  # automatic ones since it last got further
    requeue_mark: Mapped[float] = mapped_column(default=0.0)  # `progress` at the last of them


class Label(Base):
    """A latent's label, note, tags and star.  Kept when the SAE is deleted, because it may be added again.

    `version` counts the changes of text, note and tags.  An update names the version that it replaces, so that
    SQLAlchemy raises StaleDataError where somebody else was faster.
    """

    __tablename__ = "labels"

    sae_id: Mapped[str] = mapped_column(String(170), primary_key=True)
    latent: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(Text, default="")
    starred: Mapped[bool] = mapped_column(default=False)
    note: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[str] = mapped_column(Text, default="", server_default="")  # words, sorted, with commas between
    author: Mapped[str] = mapped_column(String(80), default="")
    updated: Mapped[float] = mapped_column(default=time.time)
    version: Mapped[int] = mapped_column(default=0, server_default="0")

    __mapper_args__ = {"version_id_col": version, "version_id_generator": False}  # noqa: RUF012  (as SQLAlchemy reads it)


class EarlierLabel(Base):
    """A label, note and tags that were replaced, with who wrote them and when."""

    __tablename__ = "label_history"
    __table_args__ = (Index(None, "sae_id", "latent"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    sae_id: Mapped[str] = mapped_column(String(170))
    latent: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    note: Mapped[str] = mapped_column(Text)
    tags: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(String(80))
    updated: Mapped[float]


class SteerRun(Base):
    """One steering request and its finished text, which the permalink replays.

    States: queued, running, succeeded, failed, stopped.
    """

    __tablename__ = "steer_runs"
    __table_args__ = (Index(None, "sae_id", "created"),)

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    created: Mapped[float] = mapped_column(default=time.time)
    sae_id: Mapped[str] = mapped_column(String(170))
    build_id: Mapped[str | None] = mapped_column(String(120))
    request: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None]
    state: Mapped[str] = mapped_column(String(20), default="queued")
    error: Mapped[str | None] = mapped_column(Text)


class Inspection(Base):
    """Texts given to the prompt inspector and the SAEs to read them with.  `id` is a digest of the request."""

    __tablename__ = "inspections"

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    created: Mapped[float] = mapped_column(default=time.time)
    request: Mapped[dict[str, Any]]


class LatentEffect(Base):
    """What was measured of a latent: its output score with the tokens it was measured on, and what ablating it does.

    Belongs to a build, whose maximum activations are the unit and whose contexts were read.
    """

    __tablename__ = "latent_effects"

    sae_id: Mapped[str] = mapped_column(String(170), primary_key=True)
    build_id: Mapped[str] = mapped_column(String(120), primary_key=True)
    latent: Mapped[int] = mapped_column(primary_key=True)
    score: Mapped[float | None]
    tokens: Mapped[dict[str, Any] | None]
    ablation: Mapped[dict[str, Any] | None]
    updated: Mapped[float] = mapped_column(default=time.time, onupdate=time.time)
