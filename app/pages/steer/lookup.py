"""Lookups of the steering form: an SAE's facts, a latent's maximum and tokens, an example to begin with."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlencode

from sqlalchemy.orm import Session

from app.db.tables import Inspection, Sae
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.library.latent_names import names_of
from app.pages.find.latents import Scope, find_latents
from app.pages.find.phrase import Found, Read, Reading, reading
from app.pages.sae_choice import computable_saes
from app.pages.steer.example import beginning, example_latent
from app.pages.steer.form import Chip, Form, SaeFacts, default_values
from app.render.token_text import token_label
from sae.errors import UserError
from sae.lm.model_info import DEMO, find_model
from sae.lm.prompts import has_chat_template
from sae.steering.text_measures import concept_tokens
from sae.store.build import Build

FOUND = 8  # latents that the field for another one lists
_PROMOTED = 4  # tokens that a latent of the form is shown to promote
_DEMO_PROMPT = 'def read_config(path):\n    """'


class Sources:
    """Answers from the catalog, the open builds and the database."""

    def __init__(self, catalog: Catalog, builds: Builds, db: Session) -> None:
        self._catalog, self._builds, self.db = catalog, builds, db

    def steerable(self) -> list[Sae]:
        """Return the SAEs that have weights and a build, the best first."""
        return computable_saes(self._catalog)

    def sae(self, sae_id: str) -> Sae | None:
        """Return the SAE, or None if it cannot be steered with."""
        sae = self._catalog.get_sae(self._catalog.present_id(sae_id)) if sae_id else None
        return sae if sae is not None and sae.current_build and not sae.weightless else None

    def can_chat(self, sae: Sae) -> bool:
        """Return whether the SAE's model has a chat template."""
        try:
            return has_chat_template(find_model(str(sae.config["model"]["name"])))
        except UserError:  # the model is not available now; the run will say so
            return False

    def concept(self, chip: Chip) -> tuple[int, ...]:
        """Return the ids of the tokens that stand for a latent's concept."""
        sae, number = self.sae(chip.sae), chip.number
        if sae is None or number is None:
            return ()
        with self._builds.use(sae.id, str(sae.current_build)) as build:
            latent = build.latent(number)
            return concept_tokens(latent) if latent is not None else ()

    def scope(self, sae_id: str) -> Scope | None:
        """Return the SAE as what a search looks through; None where it cannot be steered with."""
        sae = self.sae(sae_id)
        return Scope([sae], sae, sae) if sae is not None else None

    def search(self, sae_id: str, text: str, read: Read | None = None) -> Found:
        """Return the latents of an SAE that a text may mean; none where the SAE is not known."""
        scope, text = self.scope(sae_id), text.strip()[:200]
        if scope is None:
            return Found([], Reading(""))
        place = urlencode({"add": text, "add_sae": sae_id})
        page = f"/search/found?{urlencode({'q': text, 'sae': sae_id})}"
        return Found(
            find_latents(self.db, self._builds, scope.chosen, text, FOUND, read.active if read else None),
            reading(scope, text, f"/steer/latents?{place}&read=1", read, page))

    def inspected_text(self, inspection_id: str) -> str:
        """Return the (first) text of a stored inspection; "" where there is no such inspection."""
        row = self.db.get(Inspection, inspection_id[:80])
        return str(row.request["texts"][0]) if row is not None else ""

    def look_up(self, form: Form) -> None:
        """Look up every latent of the form; one that is not found gets an error."""
        for chip in form.chips:
            self._look_up(chip)

    def complete(self, form: Form) -> None:
        """Look up every latent, and give empty fields their usual values."""
        self.look_up(form)
        for chip in form.chips:
            chip.usual()
        if not form.prompt and form.facts:
            form.prompt = self.prompt(form.facts)

    def gone(self, sae_ids: Iterable[str]) -> list[str]:
        """Return those of these SAEs that are not here any more; a damaged one is here."""
        here = self._catalog
        return [one for one in dict.fromkeys(sae_ids) if here.get_sae(one) is None and one not in here.damaged()]

    def name(self, form: Form) -> None:
        """Look up names and tokens of the latents whose SAE is still here; the others get an error."""
        for chip in form.chips:
            found = Chip(chip.sae, chip.latent)
            self._look_up(found)
            if self.gone([chip.sae]):
                chip.errors |= found.errors
            chip.name, chip.label, chip.promotes = found.name, found.label, found.promotes

    def names(self, latents: Iterable[tuple[str, int]]) -> dict[str, str]:
        """Return the names of latents (SAE, number) by `<sae>/<number>`; an SAE that is gone has none."""
        by_sae: dict[str, set[int]] = {}
        for sae_id, latent in latents:
            by_sae.setdefault(sae_id, set()).add(latent)
        out: dict[str, str] = {}
        for sae_id, numbers in by_sae.items():
            sae = self._catalog.get_sae(sae_id)
            if sae is None or sae.current_build is None:
                continue
            with suppress(UserError), self._builds.use(sae.id, sae.current_build) as build:
                out |= {f"{sae_id}/{n}": name for n, name in names_of(self.db, build, sae_id, numbers).items()}
        return out

    def _look_up(self, chip: Chip) -> None:
        chip.sae = self._catalog.present_id(chip.sae)
        sae = self._catalog.get_sae(chip.sae) if chip.sae else None
        if sae is None:
            chip.errors["latent"] = f"there is no SAE {chip.sae!r} here"
        elif sae.weightless:
            chip.errors["latent"] = f"{sae.id} {sae.why_weightless}, so it cannot steer"
        elif sae.current_build is None:
            chip.errors["latent"] = (
                f"{sae.id} has no index yet, and strengths are in units of its maximum activations")
        else:
            with self._builds.use(sae.id, sae.current_build) as build:
                chip.facts = facts(sae, build)
                _look_up(chip, build)
                if (number := chip.number) is not None:
                    chip.name = names_of(self.db, build, sae.id, [number]).get(number, "")

    def example(self, sae_id: str | None) -> Form:
        """Return a form to begin with: a latent of this SAE (or of the best), and a prompt.

        Without any steerable SAE it is empty.
        """
        saes = self.steerable()
        sae = next((s for s in saes if s.id == sae_id), saes[0] if saes and sae_id is None else None)
        form = Form(values=default_values())
        if sae is None or sae.current_build is None:
            return form
        with self._builds.use(sae.id, sae.current_build) as build:
            latent = example_latent(build)
        if latent is not None:
            form.chips = [Chip(sae=sae.id, latent=str(latent))]
            self.complete(form)
        return form

    def prompt(self, of: SaeFacts) -> str:
        """Return a text for the model to continue; for a foreign model, the beginning of an indexed text."""
        if of.model == DEMO:
            return _DEMO_PROMPT
        with self._builds.use(of.id, of.build) as build:
            for sample in sorted(build.samples(), key=lambda sample: sample.doc_offset > 0):  # a document's start
                info = build.vocabulary
                if text := beginning([info[t].piece for t in sample.tokens if not info[t].special]):
                    return text
        return "The"


def facts(sae: Sae, build: Build) -> SaeFacts:
    """Return the facts about an SAE that a run stores."""
    config = sae.config
    return SaeFacts(
        id=sae.id, model=str(config["model"]["name"]), layer=sae.layer, n_latents=sae.n_latents,
        d_model=int(config["d_model"]), normalize=str(config["normalize"]), build=build.id,
        median_norm=float(build.meta.get("median_resid_norm") or 0.0),
        context_length=config.get("context_length"))


def _look_up(chip: Chip, build: Build) -> None:
    number = chip.number
    latent = build.latent(number) if number is not None else None
    if latent is None:
        chip.errors["latent"] = (
            f"{chip.sae} has {build.n_latents:,} latents, 0 to {build.n_latents - 1:,}; "
            f"there is no {chip.latent.strip()[:20] or 'latent without a number'}")
        return
    chip.max_act = latent.max_act
    if latent.max_act is None:  # an imported dashboard may not state it
        chip.errors["latent"] = f"the build of {chip.sae} does not state the maximum activation of latent {chip.latent}"
    elif latent.max_act == 0 and chip.mode in ("add", "clamp"):
        chip.errors["latent"] = (f"Latent {chip.latent} never fired in the build, so its strength has no unit; other "
                                 "modes work")
    chip.promotes = [token_label(build.vocabulary[token]) for token, _ in latent.logit_pos[:_PROMOTED]]
    if latent.top_tokens:
        token = latent.top_tokens[0].token
        chip.label = token_label(build.vocabulary[token])
