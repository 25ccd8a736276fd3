"""A stand-in for a language model: it names the token of the evidence and finds that token in texts."""

from __future__ import annotations

import json
import re

from sae.explain.excerpts import MARKS


def brain(messages: list[dict[str, str]]) -> str:
    """Answer any of the program's prompts."""
    system, user = messages[0]["content"], messages[1]["content"]
    if system.startswith("You explain latents"):
        tokens = re.search(r"Tokens on which it is active, with counts: (\"(?:[^\"\\]|\\.)*\")", user)
        return json.dumps({"explanation": f"the token {tokens[1] if tokens else 'nothing'}"})
    texts = re.findall(r"^\d+\. (.*)$", user, re.MULTILINE)
    if system.startswith("You see"):
        return json.dumps({"answer": 1})
    quoted = re.search(r"^Explanation: the token (\"(?:[^\"\\]|\\.)*\")", user, re.MULTILINE)
    token = json.loads(quoted[1], strict=False).replace("\n", "↵") if quoted else "\0"
    if "numbered list of" in system:
        return json.dumps({"answers": [0] * len(re.findall(r"^\d+\t", user, re.MULTILINE))})
    marked = MARKS[0] in "".join(texts)
    return json.dumps({"answers": [int((f"{MARKS[0]}{token}{MARKS[1]}" if marked else token) in t) for t in texts]})
