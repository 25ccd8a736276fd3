"""Comments of users on latents."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, select
from sqlalchemy.orm import Session

from app.db.people_tables import Comment
from sae.errors import UserError

MAX_COMMENT = 5_000
# Built once, because every page of a latent asks it.
_OF_LATENT = select(Comment).where(
    Comment.sae_id == bindparam("sae"), Comment.latent == bindparam("latent")).order_by(Comment.id)


def of_latent(db: Session, sae_id: str, latent: int) -> list[Comment]:
    """Return the comments on a latent, oldest first."""
    return list(db.scalars(_OF_LATENT, {"sae": sae_id, "latent": latent}))


def write(db: Session, sae_id: str, latent: int, text: str, author: str) -> Comment:
    """Store a comment and commit.  Raises UserError (field `text`) if it is empty or too long."""
    clean = text.replace("\r\n", "\n").replace("\0", " ").strip()
    if not clean:
        raise UserError("text: write the comment first", "text")
    if len(clean) > MAX_COMMENT:
        raise UserError(f"text: it has {len(clean):,} characters; the limit is {MAX_COMMENT:,}", "text")
    comment = Comment(sae_id=sae_id, latent=latent, text=clean, author=author)
    db.add(comment)
    db.commit()
    return comment


def find(db: Session, sae_id: str, latent: int, comment_id: int) -> Comment | None:
    """Return a comment on this latent, or None."""
    comment = db.get(Comment, comment_id) if comment_id < 2**31 else None
    return comment if comment is not None and (comment.sae_id, comment.latent) == (sae_id, latent) else None


def remove(db: Session, comment: Comment) -> None:
    """Delete a comment and commit."""
    db.execute(delete(Comment).where(Comment.id == comment.id))
    db.commit()
