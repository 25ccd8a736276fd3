"""Steps that several kinds of run share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae.runs.folder import RunFolder
from sae.runs.manage import still_there
from sae.runs.parts import parts_folder
from sae.runs.progress import Reporter
from sae.specs.registry import IndexSettings, IndexSpec, command_line
from sae.workspace.paths import Workspace, slug

if TYPE_CHECKING:
    from sae.autoencoder.artefact import Autoencoder
    from sae.data.corpus import Corpus
    from sae.lm.bridge import LanguageModel


def open_model_and_text(
    model: str, device: str, text: str, column: str, split: str, context_length: int, workspace: Workspace,
    reporter: Reporter, hooks: Sequence[str] = (), *, text_tokens: int = 0, bos: bool = True,
    markup: bool = False,
) -> tuple[LanguageModel, Corpus]:
    """Load the language model and the tokenised text, of which at most `text_tokens` are read (0: the usual number).

    `bos` says whether contexts begin with BOS, `markup` whether special tokens that are spelled in a text are read as
    these tokens.

    Raises UserError (field `site`) before it reads the text if the model lacks one of `hooks`.
    """
    reporter.begin("text", unit="documents", message=f"loading {model}")
    import torch

    from sae.data.corpus import prepare
    from sae.lm.conformance.opening import open_model

    lm = open_model(model, device, workspace)
    if hooks:
        lm.activations_at(torch.tensor([[lm.bos_id]], device=lm.device), hooks)
    reporter.update(0, message=f"tokenising {text}")

    def stop() -> bool:
        reporter.check()
        return False

    corpus = prepare(text, column, split, lm, context_length, workspace,
                     lambda done, total: reporter.update(done, total), stop, max_tokens=text_tokens or None, bos=bos,
                     markup=markup)
    return lm, corpus


def text_of(config: dict[str, Any], text: str, column: str, split: str) -> tuple[str, str, str]:
    """Return (text, column, split) as requested, or of the text that the SAE was trained on if `text` is empty."""
    if text:
        return text, column, split
    training = config["training"] if "text" in config["training"] else config["imported"]
    return training["text"], training["text_column"], training["text_split"]


def reading_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return how an SAE reads texts: whether contexts begin with BOS, and whether they have markup."""
    return {"bos": bool(config.get("bos", {}).get("prepended", True)), "markup": bool(config.get("markup"))}


def text_tokens_of(config: dict[str, Any], text: str = "", text_tokens: int = 0) -> int:
    """Return the most text tokens to read: as requested, or as in the SAE's training if the text is the same."""
    training = config["training"] if "text" in config["training"] else config["imported"]
    return text_tokens or (0 if text else int(training.get("text_tokens") or 0))


def build_index(
    settings: IndexSettings, sae: Autoencoder, lm: LanguageModel, corpus: Corpus, folder: RunFolder,
    workspace: Workspace, reporter: Reporter, number: int = 0, of: int = 1, run: str = "",
) -> str:
    """Make this run's build of `sae`, unless an earlier process finished it, and return the build's id.

    `number` and `of` place it among the builds of a sweep.  `run` is the id of the run that the build names as its
    maker; empty: the one in `folder`.
    """
    from sae.index.build import build

    sae_id, run = sae.config["id"], run or folder.id
    # The id comes from the run's id (without its kind), so that a resumed run finds its own build.
    build_id = slug(run.partition("-")[2] or run)
    path = workspace.build(sae_id, build_id)
    if not path.exists():
        if reporter.status.phase != "index":
            reporter.begin("index", settings.index_tokens * of, done=settings.index_tokens * number)
        model = IndexSpec if isinstance(settings, IndexSpec) else IndexSettings  # a training spec has other fields too
        command = command_line("index", {"sae": sae_id, **settings.model_dump(include=set(model.model_fields))})
        provenance = {"run": run, "command": command}
        with still_there(workspace, sae_id, path):
            if isinstance(settings, IndexSpec) and settings.shards > 1:
                _in_parts(settings, sae, lm, corpus, path, folder, reporter, provenance)
                return build_id
            build(lm, sae, corpus, settings, path, provenance=provenance,
                  checkpoint=folder.checkpoints / ("index.pt" if of == 1 else f"index-{number}.pt"),
                  update=lambda done, total: reporter.update(total * number + done, total * of))
    return build_id


def _in_parts(
    spec: IndexSpec, sae: Autoencoder, lm: LanguageModel, corpus: Corpus, path: Path, folder: RunFolder,
    reporter: Reporter, provenance: dict[str, Any],
) -> None:
    """Make the parts that no other process has made, then merge all of them."""
    from sae.index.build import build_part, merge_parts

    parts, n_parts, before = parts_folder(folder), spec.shards, 0

    def update(done: int, total: int) -> None:
        nonlocal before
        reporter.update(before + done, max(spec.index_tokens, before + total))
        before += total if done == total else 0

    for number in range(1, n_parts + 1):
        build_part(lm, sae, corpus, spec, parts, number, n_parts, checkpoint=folder.checkpoints / f"part-{number}.pt",
                   update=update)
    merge_parts(lm, sae, corpus, spec, path, parts, n_parts, provenance=provenance,
                update=lambda done, total: reporter.update(done, total, message="merging the parts"))
