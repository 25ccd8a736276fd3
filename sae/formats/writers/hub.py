"""Publication of an SAE to a repository of the Hugging Face hub, with a model card.  No torch.

The repository holds one folder per SAE, in SAELens' layout (which every library reads) or as our own
artefact, and a model card.  An existing card is not replaced.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from sae import __version__
from sae.errors import UserError
from sae.formats.writers import saelens, saescope
from sae.formats.writers.archive import Member, write_folder

WRITERS = {"saelens": saelens.members, "saescope": saescope.members}


class Hub(Protocol):
    """The methods of `huggingface_hub.HfApi` that are used."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...
    def file_exists(self, repo_id: str, filename: str) -> bool: ...
    def upload_folder(self, *, repo_id: str, folder_path: str, path_in_repo: str, commit_message: str) -> Any: ...


def push(
    folder: Path, config: Mapping[str, Any], repo: str, *, form: str = "saelens", path: str = "", private: bool = False,
    api: Hub | None = None,
) -> str:
    """Upload the artefact in `folder` to `repo` below `path` (by default the SAE's name), and return its address.

    Raises UserError (field `format`, `path` or `repo`); if the hub refuses, the message contains the hub's.
    """
    if form not in WRITERS:
        raise UserError(f"format: {form!r} is not one of {', '.join(WRITERS)}", "format")
    path = (path or str(config["id"]).rpartition("/")[2]).strip("/")
    if ".." in path.split("/"):
        raise UserError(f"path: {path!r} leaves the repository", "path")
    with tempfile.TemporaryDirectory(prefix="saescope-push-") as temporary:
        target = Path(temporary) / "sae"
        write_folder(WRITERS[form](folder, config), target)  # this may refuse the format, so it comes before any upload
        if api is None:
            from huggingface_hub import HfApi

            api = HfApi(library_name="saescope", library_version=__version__)
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=str(target), path_in_repo=path,
                              commit_message=f"{config['id']} in {form} form")
            if not api.file_exists(repo, "README.md"):
                card = Path(temporary) / "card"
                write_folder(_card_members(config, repo, form, path), card)
                api.upload_folder(repo_id=repo, folder_path=str(card), path_in_repo="", commit_message="Model card")
        except Exception as error:  # the client raises many kinds: no network, no token, no permission
            message = " ".join(str(error).split())[:300]
            raise UserError(f"repo: {repo} was not written ({type(error).__name__}: {message})", "repo") from None
    return f"{repo}/{path}"


def _card_members(config: Mapping[str, Any], repo: str, form: str, path: str) -> Iterator[Member]:
    yield "README.md", [card(config, repo, form, path).encode()]


def card(config: Mapping[str, Any], repo: str, form: str, path: str) -> str:
    """Return the model card: facts about the SAE and its training, its metrics, and how to load it."""
    site, metrics = config["site"], config.get("metrics") or {}
    facts: list[tuple[str, Any]] = [
        ("language model", config["model"]["name"]), ("reads", site["hook"]), ("reconstructs", site.get("out_hook")),
        ("architecture", config["architecture"]), ("latents", f"{config['n_latents']:,}"),
        ("width", config["d_model"]), ("k", config.get("k")), ("input normalisation", config["normalize"]),
        ("context length", config.get("context_length"))]
    facts += [(f"training {key}", value) for key, value in (config.get("training") or {}).items()
              if isinstance(value, int | float | str) and key in ("text", "tokens", "batch_tokens", "lr", "seed")]
    numbers = [(key, f"{value:.4g}") for key, value in metrics.items() if isinstance(value, int | float)]
    return f"""---
library_name: {"saelens" if form == "saelens" else "saescope"}
tags:
- sparse-autoencoder
- interpretability
- saelens
---

# {config['id']}

A sparse autoencoder on activations of a language model, trained or converted with saescope {__version__}.
It takes raw activations, and its decoder rows have unit norm.

{_table(("", ""), facts)}

## Metrics

{_table(("measured on held-out text", "value"), numbers) if numbers else "Not evaluated."}

## Use

{_use(config, repo, form, path)}
"""


def _use(config: Mapping[str, Any], repo: str, form: str, path: str) -> str:
    if form == "saelens":
        return f"""```python
from huggingface_hub import snapshot_download
from sae_lens import SAE

folder = snapshot_download("{repo}", allow_patterns="{path}/*")
sae = SAE.load_from_disk(f"{{folder}}/{path}")
```

or `saescope import {repo}/{path}`."""
    return f"`saescope import {repo}/{path}`"


def _table(head: tuple[str, str], rows: list[tuple[str, Any]]) -> str:
    shown = [head, ("---", "---"), *[(name, str(value)) for name, value in rows if value is not None]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
                     for row in shown)
