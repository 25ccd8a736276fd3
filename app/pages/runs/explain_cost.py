"""The estimate of a run that explains, in requests, tokens and money, before it starts."""

from __future__ import annotations

from typing import Any

from app.library.builds import Builds
from app.library.catalog import Catalog
from app.library.explanations import explained_latents, named_latents
from sae.errors import UserError
from sae.explain.choice import choose_latents
from sae.explain.estimate import RequestEstimate, estimate_requests
from sae.explain.templates import load_templates
from sae.specs.registry import ExplainSpec, parse_spec


def explain_cost(values: dict[str, Any], catalog: Catalog, builds: Builds) -> RequestEstimate | str | None:
    """Return the estimate for the settings of a form, or the reason why there is none; None without an SAE."""
    try:
        spec = parse_spec("explain", values)
        assert isinstance(spec, ExplainSpec)
        sae = catalog.get_sae(spec.sae)
        if sae is None or sae.current_build is None:
            return None
        with catalog.sessions() as db:
            chosen = named_latents(db, sae, spec.latents)
            among = explained_latents(db, sae.id) if spec.explainer == "existing" else None
        with builds.use(sae.id, sae.current_build) as build:
            latents = choose_latents(build, chosen, spec.seed, among)
            if not spec.asks_model:
                return f"{len(latents):,} latents; no model is asked, so this costs seconds."
            return estimate_requests(build, latents, spec, load_templates(spec.prompts))
    except UserError as error:
        return str(error)
