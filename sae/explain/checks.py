"""Checks of a run that explains, before it starts.  No torch."""

from __future__ import annotations

from pathlib import Path

from sae.errors import UserError
from sae.explain.choice import check_choice
from sae.explain.embedding_files import has_embedder
from sae.explain.endpoint_settings import find_endpoint
from sae.explain.templates import load_templates
from sae.lm.model_info import find_model
from sae.lm.prompts import has_chat_template
from sae.specs.explain import ExplainSpec


def check_settings(spec: ExplainSpec, *, weightless: bool = False) -> None:
    """Raise UserError, whose `field` names the setting at fault, if the run could not work."""
    check_choice(spec.latents)
    load_templates(spec.prompts)
    if weightless and "output" in spec.scored_by:
        raise UserError("scorers: the output side needs the SAE's weights, which are not here", "scorers")
    if spec.embedding_model and not Path(spec.embedding_model).is_dir():
        raise UserError(f"embedding_model: {spec.embedding_model} is not a folder", "embedding_model")
    if "embedding" in spec.scored_by and not has_embedder(spec.embedding_model):
        raise UserError("embedding_model: give a folder with embeddings, or install saescope[embedding]",
                        "embedding_model")
    if spec.is_local:
        check_instruct_model(spec.model)
    elif spec.asks_model:
        find_endpoint(spec.address, spec.model)


def check_instruct_model(folder: str) -> None:
    """Raise UserError (field `model`) unless `folder` is a model with a chat template."""
    if not has_chat_template(find_model(folder)):
        raise UserError(f"model: {folder} has no chat template, so it cannot follow instructions; choose an instruct "
                        "model, or the rule explainer", "model")
