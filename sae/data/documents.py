"""Documents: text, a chat, or token ids, as a cell of a column holds them.  No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sae.errors import UserError

# The senders in the `conversations` column of ShareGPT files.
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
          "tool": "tool", "function": "tool"}


@dataclass(frozen=True)
class Document:
    """One document: a text, which is empty if the document was skipped, or instead a chat, or token ids."""

    name: str
    text: str = ""
    messages: list[dict[str, str]] | None = None  # {"role", "content"}, for the tokenizer's chat template
    ids: list[int] | None = None

    @property
    def size(self) -> int:
        """Return about how many characters there are to tokenise."""
        if self.messages is not None:
            return sum(len(message["content"]) for message in self.messages)
        return len(self.text) if self.ids is None else len(self.ids)


def document_of(name: str, value: Any, where: str, column: str) -> Document:
    """Return the document in a cell.

    A string is text, a list of messages is a chat, and a list of integers is token ids.  A missing value gives an
    empty document.  Raises UserError (field `text_column`) for anything else.
    """
    if value is None:
        return Document(name)
    if isinstance(value, str):
        # JSON may contain half of a surrogate pair, which cannot be encoded as text.
        return Document(name, value.encode("utf-8", "replace").decode())
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return Document(name, messages=[_message(item, where, column) for item in value]) if value else Document(name)
    if isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value):
        return Document(name, ids=value)
    raise UserError(f"text_column: {where}: column {column!r} holds {_kind(value)}; it should hold text, a list of "
                    "chat messages, or a list of token ids", "text_column")


def _message(item: dict[str, Any], where: str, column: str) -> dict[str, str]:
    """Return a chat message as {"role", "content"}.  Parts of a content that are text are joined."""
    role, content = item.get("role"), item.get("content")
    if role is None and "from" in item:
        role, content = _ROLES.get(str(item["from"])), item.get("value")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise UserError(f"text_column: {where}: column {column!r} holds a message without a role and a text content; "
                        f"its keys are {', '.join(map(str, item)) or 'none'}", "text_column")
    return {"role": role, "content": content.encode("utf-8", "replace").decode()}


def _kind(value: Any) -> str:
    if isinstance(value, list):
        kinds = sorted({type(item).__name__ for item in value})
        return f"a list of {' and '.join(kinds)}"
    return type(value).__name__
