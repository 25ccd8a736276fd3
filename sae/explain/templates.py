"""The prompts, as versioned files that an administrator can override by a folder with files of the same names.

The folder is that of a run, or `SAESCOPE_LLM_PROMPTS`.  A file begins with `version: <name>`, followed by messages,
each under a line with its role in square brackets.  `{{name}}` stands for a value.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from sae.errors import UserError

SETTING = "SAESCOPE_LLM_PROMPTS"
OWN = Path(__file__).parent / "prompts"
# The values that each prompt must contain.
REQUIRED: dict[str, tuple[str, ...]] = {
    "explain": ("top",), "detection": ("explanation", "texts"), "fuzzing": ("explanation", "texts"),
    "simulation": ("explanation", "texts"), "intruder": ("texts",), "retry": ()}
_ROLE = re.compile(r"^\[(system|user|assistant)\]\n", re.MULTILINE)
_VALUE = re.compile(r"\{\{(\w+)\}\}")

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Template:
    """A prompt: its version, and its messages as (role, text) with values left open."""

    version: str
    messages: tuple[tuple[str, str], ...]

    def fill(self, **values: object) -> Messages:
        """Return the messages with these values.  A value is data: what looks like a name in it stays as it is."""
        def value(match: re.Match[str]) -> str:
            return str(values.get(match[1], match[0]))

        return [{"role": role, "content": _VALUE.sub(value, text)} for role, text in self.messages]


def load_templates(folder: str = "") -> dict[str, Template]:
    """Return every prompt by name, from `folder` where it has the file.

    Without a folder that of `SAESCOPE_LLM_PROMPTS` counts, if it is set.  Raises UserError (field `prompts`).
    """
    folder = folder or os.environ.get(SETTING, "").strip()
    if folder and not Path(folder).is_dir():
        raise UserError(f"prompts: {folder} is not a folder", "prompts")
    return {name: _load(name, Path(folder) if folder else None) for name in REQUIRED}


def _load(name: str, folder: Path | None) -> Template:
    own = (OWN / f"{name}.txt").read_text(encoding="utf-8")
    path = folder / f"{name}.txt" if folder else None
    if path is None or not path.is_file():
        return parse(name, own)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts: {path.name} cannot be read: {error}", "prompts") from None
    template = parse(name, text)
    if text == own:
        return template
    # Two different prompts never share a version, even if an administrator forgets to change its name.
    return Template(f"{template.version}+{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}",
                    template.messages)


def parse(name: str, text: str) -> Template:
    """Return the template in the text of a file.  Raises UserError (field `prompts`)."""
    head, _, body = text.replace("\r\n", "\n").partition("\n")
    version = head.removeprefix("version:").strip()
    if not head.startswith("version:") or not version:
        raise UserError(f"prompts: {name}.txt does not begin with a line `version: <name>`", "prompts")
    before, *parts = _ROLE.split(body)
    messages = tuple((role, part.strip("\n")) for role, part in zip(parts[::2], parts[1::2], strict=True))
    if before.strip() or not messages:
        raise UserError(f"prompts: {name}.txt has no message under [system] or [user]", "prompts")
    found = {match for _, part in messages for match in _VALUE.findall(part)}
    if missing := [value for value in REQUIRED[name] if value not in found]:
        raise UserError(f"prompts: {name}.txt lacks {{{{{missing[0]}}}}}", "prompts")
    return Template(version, messages)


def numbered(texts: list[str]) -> str:
    """Return texts as a numbered list.  A line break in a text would look like the next text, so it is shown as ↵."""
    return "\n".join(f"{i}. {text.replace(chr(10), '↵')}" for i, text in enumerate(texts, 1))
