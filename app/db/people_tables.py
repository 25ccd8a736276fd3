"""Tables of what people do with latents: stars, comments, lists; and the log of what administrators do."""

from __future__ import annotations

import time

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables import Base


class Star(Base):
    """A latent that a user has starred."""

    __tablename__ = "stars"
    __table_args__ = (Index(None, "sae_id", "latent"),)

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    sae_id: Mapped[str] = mapped_column(String(170), primary_key=True)
    latent: Mapped[int] = mapped_column(primary_key=True)
    created: Mapped[float] = mapped_column(default=time.time)


class Comment(Base):
    """A comment on a latent.  It stays when its author's account is removed."""

    __tablename__ = "comments"
    __table_args__ = (Index(None, "sae_id", "latent"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    sae_id: Mapped[str] = mapped_column(String(170))
    latent: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(String(80))
    created: Mapped[float] = mapped_column(default=time.time)


class LatentList(Base):
    """A named list of latents, of any SAEs, with a text to test them on.  Its `id` is its address."""

    __tablename__ = "latent_lists"

    id: Mapped[str] = mapped_column(String(20), primary_key=True)
    name: Mapped[str] = mapped_column(String(80))
    description: Mapped[str] = mapped_column(Text, default="")
    test_text: Mapped[str] = mapped_column(Text, default="")
    author: Mapped[str] = mapped_column(String(80))
    created: Mapped[float] = mapped_column(default=time.time)
    updated: Mapped[float] = mapped_column(default=time.time)


class ListMember(Base):
    """A latent of a list, with a note on why it is there."""

    __tablename__ = "list_members"
    __table_args__ = (Index(None, "sae_id", "latent"),)

    list_id: Mapped[str] = mapped_column(ForeignKey("latent_lists.id", ondelete="CASCADE"), primary_key=True)
    sae_id: Mapped[str] = mapped_column(String(170), primary_key=True)
    latent: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(Text, default="")
    author: Mapped[str] = mapped_column(String(80))
    added: Mapped[float] = mapped_column(default=time.time)


class AuditEntry(Base):
    """A change that an administrator made: what was done, at which address, and where it led."""

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float] = mapped_column(default=time.time, index=True)
    user: Mapped[str] = mapped_column(String(80))
    action: Mapped[str] = mapped_column(String(200))
    path: Mapped[str] = mapped_column(String(500))
    detail: Mapped[str] = mapped_column(String(500), default="")
