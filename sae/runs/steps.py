"""Steps that several kinds of run have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sae.runs.folder import RunFolder
from sae.runs.progress import Reporter
from sae.specs.registry import IndexSettings, IndexSpec, command_line
from sae.workspace.paths import Workspace, slug

if TYPE_CHECKING:
    from sae.autoencoder.artefact import Autoencoder
    from sae.data.corpus import Corpus
    from sae.lm.bridge import LanguageModel


def open_model_and_text(
    model: str, device: str, text: str, column: str, split: str, context_length: int, workspace: Workspace,
    reporter: Reporter, hooks: Sequence[str] = (),
) -> tuple[LanguageModel, Corpus]:
    """The language model and the tokenised text.  Raises UserError (field `site`) where the model
    lacks one of `hooks`, before the text is read."""
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
                     lambda done, total: reporter.update(done, total), stop)
    return lm, corpus


def text_of(config: dict[str, Any], text: str, column: str, split: str) -> tuple[str, str, str]:
    """The text asked for, or else the one that the SAE was trained on."""
    if text:
        return text, column, split
    training = config["training"] if "text" in config["training"] else config["imported"]
    return training["text"], training["text_column"], training["text_split"]


def build_index(
    settings: IndexSettings, sae: Autoencoder, lm: LanguageModel, corpus: Corpus, folder: RunFolder,
    workspace: Workspace, reporter: Reporter, number: int = 0, of: int = 1,
) -> str:
    """Make the build of this run, the `number`-th `of` several, or find the one that an earlier process
    finished; its id."""
    from sae.index.build import build

    sae_id = sae.config["id"]
    # Its run's time and letters, or whatever a folder made by hand is called: a resumed run finds its own build.
    build_id = slug(folder.id.partition("-")[2] or folder.id)
    path = workspace.build(sae_id, build_id)
    if not path.exists():
        if reporter.status.phase != "index":
            reporter.begin("index", settings.index_tokens * of, done=settings.index_tokens * number)
        asked = IndexSpec if isinstance(settings, IndexSpec) else IndexSettings  # a training run asks for less
        command = command_line("index", {"sae": sae_id, **settings.model_dump(include=set(asked.model_fields))})
        build(lm, sae, corpus, settings, path, provenance={"run": folder.id, "command": command},
              checkpoint=folder.checkpoints / ("index.pt" if of == 1 else f"index-{number}.pt"),
              update=lambda done, total: reporter.update(total * number + done, total * of))
    return build_id
