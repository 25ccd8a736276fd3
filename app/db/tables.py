"""The tables of the app database.  Times are Unix seconds; ids of runs sort by time.

The database does not store what can be read from the workspace (metrics, curves, builds).  Only `saes` mirrors
`sae.json` for quick listing, and `Catalog.sync()` updates it whenever the folders change.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, MetaData, String, Text, true
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


# Tables that backups leave out, because they hold the present moment, or numbers that triggers count again.
PASSING: Any = {"info": {"passing": True}}


class Base(DeclarativeBase):
    """The base of all tables.  It names every constraint, so that migrations can refer to it."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {dict[str, Any]: JSON(none_as_null=True)}  # noqa: RUF012  (as SQLAlchemy reads it)


class User(Base):
    """A user who may sign in.  One without `password_hash` can only use a one-time link."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    password_hash: Mapped[str | None] = mapped_column(String(255))
    is_admin: Mapped[bool] = mapped_column(default=False)
    is_editor: Mapped[bool] = mapped_column(default=True, server_default=true())
    created: Mapped[float] = mapped_column(default=time.time)

    @property
    def role(self) -> str:
        """Return `administrator`, `editor` or `reader`.  A reader writes nothing but its own stars."""
        return "administrator" if self.is_admin else "editor" if self.is_editor else "reader"


class LoginSession(Base):
    """A signed-in browser.  `id` is the SHA-256 of the cookie, which is not stored."""

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


class ApiToken(Base):
    """A token by which a program acts for a user.  `id` is the SHA-256 of its secret, which is not stored.

    `scopes` are names of `app.access.tokens.SCOPES`, separated by spaces.  One without `expires` is valid for ever.
    """

    __tablename__ = "api_tokens"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(80))
    scopes: Mapped[str] = mapped_column(String(80))
    created: Mapped[float] = mapped_column(default=time.time)
    expires: Mapped[float | None]
    used: Mapped[float | None]  # the last use, to the minute

    user: Mapped[User] = relationship(lazy="joined")


class Sae(Base):
    """A finished SAE in the workspace; `config` is its `sae.json`."""

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
    def is_dashboard(self) -> bool:
        """Return whether it is an imported dashboard, which was computed elsewhere and has no weights."""
        return self.config.get("weights") == "none"

    @property
    def weightless(self) -> bool:
        """Return whether it has no weights to compute with: a dashboard, or an SAE whose weights are damaged."""
        return self.is_dashboard or bool(self.weights_fault)

    @property
    def why_weightless(self) -> str:
        """Return why nothing can be computed with it, as a predicate of the SAE; "" if something can."""
        if self.is_dashboard:
            return "is a dashboard made elsewhere, without weights"
        return f"can only be browsed, because its {self.weights_fault}" if self.weights_fault else ""

    @property
    def damage(self) -> str:
        """Return why its `sae.json` cannot be used, or "".  A damaged SAE has no other facts than its id."""
        return str(self.config.get("notes", {}).get("damage", ""))

    @property
    def weights_fault(self) -> str:
        """Return why its weights cannot be used, or ""."""
        return str(self.config.get("notes", {}).get("weights_fault", ""))

    @property
    def note(self) -> str:
        """Return the administrators' note on the SAE."""
        return str(self.config.get("notes", {}).get("note", ""))

    @property
    def hidden(self) -> bool:
        """Return whether the home page, the switcher and the search leave the SAE out.  Its own pages stay."""
        return bool(self.config.get("notes", {}).get("hidden"))


class Run(Base):
    """A run: its state, its place in the queue and its process.  Its spec and progress are in its folder.

    The states are queued → starting → running → succeeded | failed | cancelled | lost.  A lost run goes
    back to queued and resumes from its last checkpoint.
    """

    __tablename__ = "runs"
    __table_args__ = (Index(None, "state", "created"),)

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    spec: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(20), default="queued")
    created: Mapped[float] = mapped_column(default=time.time)
    launched: Mapped[float | None]  # start of the present (or last) process
    started: Mapped[float | None]  # start of the first process
    finished: Mapped[float | None]
    launcher: Mapped[str] = mapped_column(String(20), default="local", server_default="local")
    resources: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # asked of a cluster
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")  # number of the present (or last) process
    ref: Mapped[str | None] = mapped_column(String(160))  # the launcher's name of the process: see `Handle`
    ref_mark: Mapped[str | None] = mapped_column(String(80))  # tells it from a later process with this name
    waiting_for: Mapped[str | None] = mapped_column(String(200))  # what keeps a started run from running
    parent: Mapped[str | None] = mapped_column(String(80), index=True)  # the run that this one is a part of
    cancel_asked: Mapped[float | None]
    requested_by: Mapped[str] = mapped_column(String(80), default="")
    form_key: Mapped[str | None] = mapped_column(String(80), unique=True)  # so that a form sent twice starts one run
    error: Mapped[str | None] = mapped_column(Text)
    sae_id: Mapped[str | None] = mapped_column(String(170))
    progress: Mapped[float] = mapped_column(default=0.0)  # largest finished share so far, 0 to 1
    requeues: Mapped[int] = mapped_column(default=0)  # automatic ones since `progress` last grew
    requeue_mark: Mapped[float] = mapped_column(default=0.0)  # `progress` at the last automatic requeue


class Label(Base):
    """A latent's label, note and tags.  Kept when the SAE's folder disappears, because it may come back.

    `version` counts the changes of text, note and tags.  An update names the version that it replaces, so that
    SQLAlchemy raises StaleDataError if somebody else was faster.
    """

    __tablename__ = "labels"

    sae_id: Mapped[str] = mapped_column(String(170), primary_key=True)
    latent: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(Text, default="")
    note: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[str] = mapped_column(Text, default="", server_default="")  # sorted and separated by ", "
    author: Mapped[str] = mapped_column(String(80), default="")
    updated: Mapped[float] = mapped_column(default=time.time)
    version: Mapped[int] = mapped_column(default=0, server_default="0")

    __mapper_args__ = {"version_id_col": version, "version_id_generator": False}  # noqa: RUF012  (as SQLAlchemy reads it)


class EarlierLabel(Base):
    """A replaced label, note and tags, with their author and time."""

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

    The states are queued, running, succeeded, failed and stopped.
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
    """A latent's measured effects: its output score with the tokens it was measured on, and its ablation.

    They belong to a build, which provides the maximum activations (the unit of strength) and the contexts.
    """

    __tablename__ = "latent_effects"

    sae_id: Mapped[str] = mapped_column(String(170), primary_key=True)
    build_id: Mapped[str] = mapped_column(String(120), primary_key=True)
    latent: Mapped[int] = mapped_column(primary_key=True)
    score: Mapped[float | None]
    tokens: Mapped[dict[str, Any] | None]
    ablation: Mapped[dict[str, Any] | None]
    updated: Mapped[float] = mapped_column(default=time.time, onupdate=time.time)


class LatentExplanation(Base):
    """A text about one latent, by a rule, a person or a model.

    `in_file` rows mirror the file of explanations in the SAE's folder.  The others were written on pages: `method` is
    "label" for the row that follows a latent's label.  At most one explanation of a latent is `chosen`.
    """

    __tablename__ = "explanations"
    __table_args__ = (Index(None, "sae_id", "latent"),)

    sae_id: Mapped[str] = mapped_column(String(170), primary_key=True)
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    latent: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(String(10))  # rule, person or model
    author: Mapped[str] = mapped_column(String(100), default="")
    method: Mapped[str] = mapped_column(String(100), default="")
    model: Mapped[str] = mapped_column(String(200), default="")
    prompt_version: Mapped[str] = mapped_column(String(100), default="")
    run: Mapped[str] = mapped_column(String(80), default="")
    created: Mapped[float] = mapped_column(default=time.time)
    chosen: Mapped[bool] = mapped_column(default=False)
    in_file: Mapped[bool] = mapped_column(default=False)


class ExplanationVersion(Base):
    """A number that grows whenever the explanations of an SAE change.  Triggers on `explanations` alone write it.

    Its row stays when the SAE is deleted, so that another SAE of the same name has other numbers.
    """

    __tablename__ = "explanation_versions"
    __table_args__ = PASSING

    sae_id: Mapped[str] = mapped_column(String(170), primary_key=True)
    version: Mapped[int]


class NoteVersion(Base):
    """A number that grows whenever notes, tags or comments of an SAE change, as `ExplanationVersion` does."""

    __tablename__ = "note_versions"
    __table_args__ = PASSING

    sae_id: Mapped[str] = mapped_column(String(170), primary_key=True)
    version: Mapped[int]


class ExplanationScore(Base):
    """The value of a scorer for an explanation, or for a latent itself (`explanation_id` is empty)."""

    __tablename__ = "explanation_scores"
    __table_args__ = (Index(None, "sae_id", "latent"),)

    sae_id: Mapped[str] = mapped_column(String(170), primary_key=True)
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    explanation_id: Mapped[str] = mapped_column(String(40), default="")
    latent: Mapped[int]
    scorer: Mapped[str] = mapped_column(String(40))
    model: Mapped[str] = mapped_column(String(200), default="")
    value: Mapped[float]
    low: Mapped[float | None]
    high: Mapped[float | None]
    f1: Mapped[float | None]
    n: Mapped[int] = mapped_column(default=0)
    created: Mapped[float] = mapped_column(default=time.time)
    details: Mapped[dict[str, Any]]


class ExplanationFile(Base):
    """The number of bytes of an SAE's file of explanations that the database mirrors."""

    __tablename__ = "explanation_files"

    sae_id: Mapped[str] = mapped_column(String(170), primary_key=True)
    n_bytes: Mapped[int]


class Evaluation(Base):
    """One number of a measure of an SAE, with its 95% interval.  It mirrors the measure's file in the SAE's folder."""

    __tablename__ = "evaluations"

    sae_id: Mapped[str] = mapped_column(String(170), primary_key=True)
    measure: Mapped[str] = mapped_column(String(40), primary_key=True)
    key: Mapped[str] = mapped_column(String(80), primary_key=True)
    value: Mapped[float]
    low: Mapped[float | None]
    high: Mapped[float | None]
    n: Mapped[float | None]  # size of the sample, which may be beyond 32 bits
    definition: Mapped[str] = mapped_column(Text, default="")
    run: Mapped[str] = mapped_column(String(80), default="")
    created: Mapped[float] = mapped_column(default=time.time)
