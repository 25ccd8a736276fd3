"""The run that trains one SAE, or a sweep of them on one stream of activations, and then measures and indexes them.

The SAEs are saved after all of them are measured, each one atomically.  A resumed run makes only the SAEs that are
missing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sae import __version__
from sae.autoencoder.architectures import REGISTRY
from sae.autoencoder.artefact import Autoencoder
from sae.data.activations import ActivationStream
from sae.data.median_norm import find_left_out
from sae.distributed import Group
from sae.distributed.world import device_of, open_world
from sae.errors import UserError
from sae.evaluation.metrics import calibrate_and_evaluate, held_out_contexts
from sae.lm.model_info import find_model
from sae.runs.folder import RunFolder
from sae.runs.kept import check_layers, kept_for
from sae.runs.names import claim_names, release
from sae.runs.progress import Reporter
from sae.runs.steps import build_index, open_model_and_text
from sae.specs.registry import SweepSpec, TrainSpec
from sae.training.loop import Trained, artefact, train_all
from sae.workspace.paths import Workspace

if TYPE_CHECKING:
    from sae.data.corpus import Corpus
    from sae.data.kept import KeptActivations
    from sae.data.left_out import LeftOut
    from sae.lm.bridge import LanguageModel


@dataclass(frozen=True)
class _Job:
    """The SAEs that this process makes of those of a run, by their numbers there."""

    spec: TrainSpec | SweepSpec
    all: list[TrainSpec]
    numbers: list[int]
    run: str  # the id of the run that they belong to

    @property
    def members(self) -> list[TrainSpec]:
        return [self.all[number] for number in self.numbers]

    @property
    def whole(self) -> bool:
        """Whether these are all SAEs of the run."""
        return len(self.numbers) == len(self.all)


def train_members(
    spec: TrainSpec | SweepSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter,
    numbers: Sequence[int] | None = None, run: str = "",
) -> dict[str, Any]:
    """Make every SAE of `spec`, or those with these numbers, and return the run's result.

    One SAE gives {"name", "sae", "metrics"[, "build"]}; a sweep gives {"members": [such an object for each SAE]}.
    An SAE that failed has an "error" instead of metrics.  `run` is the id of the run that the SAEs belong to, where it
    is not the run in `folder`.
    """
    info = find_model(spec.model)
    check_layers(spec)
    everyone = spec.members()
    job = _Job(spec, everyone, list(range(len(everyone)) if numbers is None else numbers), run or folder.id)
    group = open_world(spec.shards, spec.batch_tokens)
    sae_ids = group.from_main(
        claim_names(spec, info.id, folder, workspace, job.members, job.run) if group.is_main else [])
    if not group.is_main:
        group.wait()  # the main process prepares the text first; the others then read it from disk
    lm, corpus = open_model_and_text(
        spec.model, device_of(spec.device), spec.text, spec.text_column, spec.text_split, spec.context_length,
        workspace, reporter, [hook for site in _sites(job.members) for hook in site if hook],
        text_tokens=spec.text_tokens, bos=spec.bos, markup=spec.markup)
    if group.is_main:
        group.wait()
    # An earlier process of this run may have saved some of the SAEs.
    saes: dict[str, Autoencoder | str] = {
        sae_id: Autoencoder.load(workspace.sae(sae_id), lm.device) for sae_id in sae_ids
        if (workspace.sae(sae_id) / "sae.json").exists()}
    if len(saes) < len(sae_ids):
        saes = _trained(job, sae_ids, saes, lm, corpus, folder, workspace, reporter, group)
    if not group.is_main:
        return {}
    results = [_result(sae_id, saes[sae_id]) for sae_id in sae_ids]
    reporter.status.result = results[0] if isinstance(spec, TrainSpec) else {"members": results}
    if spec.index:
        made = [(result, sae) for result in results if isinstance(sae := saes[result["name"]], Autoencoder)]
        for number, (result, sae) in enumerate(made):
            result["build"] = build_index(
                spec, sae, lm, corpus, folder, workspace, reporter, number, len(made), job.run)
    return reporter.status.result


def _result(sae_id: str, sae: Autoencoder | str) -> dict[str, Any]:
    if isinstance(sae, str):
        return {"name": sae_id, "sae": None, "error": sae}
    return {"name": sae_id, "sae": sae_id, "metrics": sae.config["metrics"]}


def _trained(
    job: _Job, sae_ids: list[str], known: dict[str, Autoencoder | str], lm: LanguageModel,
    corpus: Corpus, folder: RunFolder, workspace: Workspace, reporter: Reporter, group: Group,
) -> dict[str, Autoencoder | str]:
    """Train all SAEs, then calibrate, measure and save the missing ones.

    The value of an SAE that failed is its error message.
    """
    spec, members = job.spec, job.members
    held_out_contexts(corpus, spec.eval_tokens)  # refuses too little text before the training, not after it
    sites, all_sites = _sites(members), _sites(job.all)
    kept = kept_for(spec, [hook for site in sites for hook in site if hook], lm, corpus, folder, workspace, reporter)
    reporter.begin("training", spec.tokens * len(sites), message="reading the first activations")
    fresh, saes = dict[str, Autoencoder](), dict(known)
    for before, site in enumerate(sites):
        chosen = [i for i, member in enumerate(members) if (member.hook, member.out_hook) == site]
        left_out = find_left_out(lm, corpus, site[0], spec.skip_norm, spec.skip_tokens)
        if left_out:
            print(f"left out of training, metrics and index: {left_out}", flush=True)
        number = all_sites.index(site) if len(all_sites) > 1 else None
        outcomes = _train_site(job, [job.numbers[i] for i in chosen], number, before, lm, corpus, kept, left_out,
                               folder, reporter, group)
        for i, outcome in zip(chosen, outcomes, strict=True):
            sae_id = sae_ids[i]
            if isinstance(outcome, UserError):
                saes[sae_id] = str(outcome)
            elif sae_id not in known:
                fresh[sae_id] = saes[sae_id] = _artefact(members[i], sae_id, outcome, lm, corpus, job.run, len(members))
                if left_out:
                    fresh[sae_id].config["left_out"] = left_out.record()
    if not fresh or not group.is_main:
        return saes
    reporter.begin("evaluation")
    by_site = [some for site in sites if (some := [
        sae for sae in fresh.values() if (sae.hook, sae.out_hook if sae.is_transcoder else "") == site])]
    for number, some in enumerate(by_site):
        calibrate_and_evaluate(
            lm, some, corpus, spec.eval_tokens, spec.ce_tokens,
            lambda done, total, before=number: reporter.update(total * before + done, total * len(by_site)))  # type: ignore[misc]
    for sae_id, sae in fresh.items():
        several = {"member": job.numbers[sae_ids.index(sae_id)]} if len(job.all) > 1 else {}
        reporter.row(**several, **sae.config["metrics"])
        sae.save(workspace.sae(sae_id))
        release(sae_id, workspace)
    return saes


def _format(lm: LanguageModel) -> dict[str, str]:
    """Return the number format of the language model where it is not float32."""
    return {} if lm.format_name == "float32" else {"dtype": lm.format_name}


def _sites(members: list[TrainSpec]) -> list[tuple[str, str]]:
    """Return the sites of a run's SAEs, (the hook that is read, a transcoder's second one or ""), each once."""
    return list(dict.fromkeys((member.hook, member.out_hook) for member in members))


def _train_site(
    job: _Job, numbers: list[int], site: int | None, sites_before: int, lm: LanguageModel, corpus: Corpus,
    kept: KeptActivations | None, left_out: LeftOut, folder: RunFolder, reporter: Reporter, group: Group,
) -> list[Trained | UserError]:
    """Train the SAEs of one site, which have these numbers in the run.

    `site` is the site's number in the run, or None if it has one alone.  If all of these SAEs diverge and they are a
    part of the run, each outcome is the UserError.
    """
    members = [job.all[number] for number in numbers]
    spec = members[0]
    stream = ActivationStream(
        lm, corpus, spec.hook, spec.batch_tokens, spec.buffer_tokens, spec.reuse, spec.train_on_bos, spec.seed,
        dtype=getattr(torch, spec.buffer_dtype), out_hook=spec.out_hook, n_steps=spec.tokens // spec.batch_tokens,
        group=group, left_out=left_out, kept=kept,
        # The language model's passes renew the heartbeat too.  Several processes must all stop after the same step,
        # so they do not stop here.
        check=reporter.beat if group.world > 1 else lambda: reporter.update(reporter.status.done))

    def row(**values: Any) -> None:
        several = {"member": numbers[values.get("member", 0)]} if len(job.all) > 1 else {}
        reporter.row(**{**values, **several, **({"site": site} if site is not None else {})})

    try:
        return train_all(
            members, stream, lm.device, row=row, group=group,
            checkpoint=folder.checkpoints / ("train.pt" if site is None else f"train-{site}.pt"),
            update=lambda tokens: reporter.update(spec.tokens * sites_before + tokens, message=""))
    except UserError as error:
        if job.whole or error.field != "lr":
            raise
        return [error] * len(members)


def _artefact(
    spec: TrainSpec, sae_id: str, trained: Trained, lm: LanguageModel, corpus: Corpus, run: str, n_saes: int
) -> Autoencoder:
    """Return the trained SAE with its `sae.json`; its metrics are still empty."""
    tensors = trained.trainer.tensors()
    site = {"layer": spec.layer, "hook": spec.hook} | ({"out_hook": spec.out_hook} if spec.out_hook else {})
    width = {"d_in": tensors["W_enc"].shape[1]} if spec.out_hook else {}
    sae = artefact(trained, {
        "schema_version": 1, "id": sae_id, "model": {"name": spec.model, "id": lm.info.id, **_format(lm)}, "site": site,
        "architecture": spec.architecture, "n_latents": spec.n_latents, "d_model": tensors["W_dec"].shape[1], **width,
        "k": spec.k if REGISTRY[spec.architecture].has_k else None, "normalize": spec.normalize,
        "weight_processing": "raw", "bos": {"prepended": spec.bos, "trained_on": spec.train_on_bos},
        **({"markup": True} if spec.markup else {}),
        "context_length": spec.context_length, "threshold": None, "metrics": {},
        "training": {**spec.model_dump(mode="json"), "text_fingerprint": corpus.info["fingerprint"],
                     "corpus": corpus.id, "seconds": trained.seconds, "tokens_per_s": spec.tokens / trained.seconds,
                     "saes_trained_together": n_saes},
        "run": run, "created": time.time(), "saescope_version": __version__,
    })
    sae = sae.to(lm.device) if trained.trainer.group.shards > 1 else sae  # the shards were joined on the CPU
    if sae.sparsity.threshold is not None:
        sae.config["threshold"] = {"trained": sae.sparsity.threshold, "trained_batches": list(trained.theta_batches)}
    return sae
