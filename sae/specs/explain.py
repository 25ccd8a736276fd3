"""The settings of a run that explains latents.  No torch.

The key of an endpoint is no setting: `sae.explain.endpoint_settings` reads it from the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, model_validator

from sae.faults import DEVICE
from sae.specs.training import DEVICES, BaseSpec, listed, setting

Explainer = Literal["rule", "endpoint", "local", "existing"]
Scorer = Literal["detection", "fuzzing", "simulation", "intruder", "embedding", "output"]
JUDGED = frozenset({"detection", "fuzzing", "simulation", "intruder"})  # scorers that ask a model
_Scorers = Annotated[tuple[Scorer, ...], BeforeValidator(listed)]


class ExplainSpec(BaseSpec):
    """Explanations of an SAE's latents: evidence ▸ explanation ▸ scores."""

    sae: str = setting(..., "The SAE, as <model>/<name>", group="what", pattern=r"^[^/]+/[^/]+$")
    latents: str = setting(
        "20", "Latents: a number of random ones, all, densest:n, random:n, or their numbers, such as 3,5,7 or #3. "
        "A server also knows starred, tagged:<tag> and unexplained",
        group="what", min_length=1, max_length=1_000_000)
    again: bool = setting(
        False, "Explain also latents that this explainer has explained before, with the same model and prompt",
        group="what")
    explainer: Explainer = setting(
        "rule", "Explainer: the rule that the index found, a model behind an endpoint, a local instruct model, or "
        "existing: nothing new, but the explanations of people, imports and earlier runs are scored",
        group="explainer", why="a rule needs no model; the demo's own model cannot explain")
    address: str = setting(
        "", "Address of an OpenAI-compatible endpoint, such as http://localhost:8000/v1; empty: SAESCOPE_LLM_URL. The "
        "key is read from SAESCOPE_LLM_KEY or the secrets folder", group="explainer", max_length=2000)
    model: str = setting(
        "", "Name of the endpoint's model (empty: SAESCOPE_LLM_MODEL), or the folder of a local instruct model, with a "
        "slash in it",
        group="explainer", max_length=4096)
    prompts: str = setting(
        "", "Folder with prompts that replace the program's own, such as explain.txt; empty: SAESCOPE_LLM_PROMPTS",
        group="explainer", max_length=4096)
    answer_tokens: int = setting(
        300, "Tokens that one answer may have", group="explainer", unit="tokens", ge=16, le=32_768,
        why="models that reason before they answer need thousands")
    scorers: _Scorers = setting(
        (), "Scorers, separated by commas: detection, fuzzing, simulation, intruder, embedding, output; empty: "
        "detection and fuzzing, except for the rule explainer. A rule always has its precision and recall",
        group="scores")
    positives: int = setting(
        10, "Texts with firings on which an explanation is scored", group="scores", ge=3, le=200)
    negatives: int = setting(
        5, "Texts without firings of each of three sorts: random, of similar latents, near misses", group="scores",
        ge=1, le=100)
    embedding_model: str = setting(
        "", "Folder with static word embeddings in the layout of model2vec, for the embedding scorer; empty: "
        "SAESCOPE_EMBEDDING_MODEL, or those of the extra saescope[embedding]", group="scores",
        max_length=4096)
    verify: bool = setting(
        True, "Compute the latent's activations on texts without firings, to be sure of them, if the SAE has weights",
        group="scores")
    concurrency: int = setting(
        4, "Latents that are worked on at the same time", group="cost", ge=1, le=256,
        why="local servers answer a few requests at once; hosted ones take fifty")
    timeout_s: float = setting(60, "Longest time for one answer", group="cost", unit="s", gt=0, le=3600)
    retries: int = setting(6, "Further attempts after a failure, with growing pauses", group="cost", ge=0, le=100)
    budget_tokens: int = setting(
        0, "Tokens after which the run stops; 0: no limit", group="cost", unit="tokens", ge=0)
    budget_money: float = setting(
        0, "Money after which the run stops, in the unit of the prices; 0: no limit", group="cost", ge=0)
    price_in: float = setting(0, "Price of a million tokens that the model reads", group="cost", ge=0)
    price_out: float = setting(0, "Price of a million tokens that the model writes", group="cost", ge=0)
    seed: int = setting(0, "Seed of the choice of latents and texts", group="scores", ge=0, lt=2**31)
    shards: int = setting(
        1, "Parts of the latents that are explained separately, on a cluster at the same time. Each part may spend an "
        "equal share of the budget", group="stream", unit="parts", ge=1, le=1000,
        why="a lost node costs one part; each part asks at most `concurrency` requests at the same time")
    device: str = setting("auto", DEVICES, group="stream", pattern=DEVICE)

    @property
    def scored_by(self) -> tuple[str, ...]:
        """Return the scorers of the run."""
        return self.scorers or (() if self.explainer == "rule" else ("detection", "fuzzing"))

    @property
    def asks_model(self) -> bool:
        """Return whether any step asks a model."""
        return self.explains_by_model or bool(JUDGED & set(self.scored_by))

    @property
    def explains_by_model(self) -> bool:
        """Return whether a model writes the explanations."""
        return self.explainer in ("endpoint", "local")

    @property
    def is_local(self) -> bool:
        """Return whether the model that explains or judges is a local one, in a folder."""
        if self.explainer in ("rule", "existing"):
            return "/" in self.model and Path(self.model).is_dir()
        return self.explainer == "local"

    @model_validator(mode="after")
    def _consistent(self) -> ExplainSpec:
        if self.explainer == "local" and not self.model:
            raise ValueError("model: give the folder of a local instruct model")
        if self.budget_money and not (self.price_in or self.price_out):
            raise ValueError("budget_money: a limit in money needs price_in or price_out")
        return self

