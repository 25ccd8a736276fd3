"""A build from end to end: scales, scan, tables, file; in one part, or in several that are merged."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sae import __version__
from sae.autoencoder.artefact import Autoencoder
from sae.data.corpus import Corpus
from sae.data.left_out import LeftOut
from sae.errors import UserError
from sae.index.job import IndexJob, IndexPlan, contexts_to_read
from sae.index.sample_tables import Strongest
from sae.index.scan import scan
from sae.index.shard import Shard
from sae.index.tables import make_tables
from sae.kernels.malloc import keep_freed_memory
from sae.lm.bridge import LanguageModel
from sae.specs.registry import IndexSettings
from sae.store.records import NEAR
from sae.store.schema import BANDS, SCHEMA_VERSION
from sae.store.writer import meta_table, new_build
from sae.workspace.checkpoint import Saver, load_checkpoint, save_checkpoint

__all__ = ["build", "build_part", "contexts_to_read", "merge_parts", "part_path"]

_BOS_RULES = {True: "BOS first in every context; not among the counted tokens",
              False: "no BOS; the first token of every context is not among the counted tokens"}


Update = Callable[[int, int], None]


def build(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, settings: IndexSettings, path: Path, *,
    provenance: dict[str, Any], checkpoint: Path | None = None, update: Update = lambda done, total: None,
) -> None:
    """Write the build `path`, and resume after the last finished shard if `checkpoint` holds one.

    `update(done, total)` receives token counts and may raise to stop.  `provenance` is added to `meta`.
    """
    started = time.time()
    keep_freed_memory()
    job = IndexJob.open(lm, sae, corpus, settings)
    total = job.tokens()
    with Saver(checkpoint) as saver:  # the last checkpoint is written while the tables are made
        shard = scan(job.pool, corpus, job.contexts, job.plan.scales, saver=saver,
                     read=job.read, update=lambda done: update(done, total))
        _write(job, shard, path, provenance, started, lambda: update(total, total))


def build_part(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, settings: IndexSettings, parts: Path, number: int,
    n_parts: int, *, checkpoint: Path | None = None, update: Update = lambda done, total: None,
) -> None:
    """Write the aggregates of one of `n_parts` parts of the text, counted from 1, to the folder `parts`.

    A part that is there already is kept.  Parts may be made by different processes and machines at the same time.
    `update` and `checkpoint` are as in `build`.
    """
    path = part_path(parts, number, n_parts)
    if path.exists():
        return
    keep_freed_memory()
    job = _planned(lm, sae, corpus, settings, parts)
    first, last = job.bounds(n_parts)[number - 1 : number + 1]
    if first == last:
        save_checkpoint(path, {"shard": None})
        return
    total = job.tokens(first, last)
    with Saver(checkpoint) as saver:
        shard = scan(job.pool, corpus, job.contexts[first:last], job.plan.scales, saver=saver,
                     read=job.read if first == 0 else (),
                     update=lambda done: update(done, total), per_round=job.plan.per_round)
    save_checkpoint(path, {"shard": shard.state()})


def merge_parts(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, settings: IndexSettings, path: Path, parts: Path,
    n_parts: int, *, provenance: dict[str, Any], update: Update = lambda done, total: None,
) -> None:
    """Write the build `path` from its parts.  Its rows equal those of `build`.

    Raises UserError (field `shards`) if a part is missing.
    """
    started = time.time()
    keep_freed_memory()
    job = _planned(lm, sae, corpus, settings, parts)
    total, merged = job.tokens(), None
    for number in range(1, n_parts + 1):
        update(total, total)
        state = load_checkpoint(part_path(parts, number, n_parts))
        if state is None:
            raise UserError(f"shards: part {number} of {n_parts} is missing; resume its run first", "shards")
        if state["shard"] is None:
            continue
        shard = Shard.from_state(state["shard"])
        if merged is None:
            merged = shard
        else:
            merged.absorb(shard, job.plan.scales)
    if merged is None:
        raise ValueError("no contexts to read")
    _write(job, merged, path, provenance, started, lambda: update(total, total))


def part_path(parts: Path, number: int, n_parts: int) -> Path:
    """Return the file of a part."""
    return parts / f"part-{number}-of-{n_parts}.pt"


def _planned(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, settings: IndexSettings, parts: Path
) -> IndexJob:
    """Return the job by the plan in the folder `parts`, which the first process writes."""
    path = parts / "plan.json"
    job = IndexJob.open(lm, sae, corpus, settings, IndexPlan.read(path))
    plan = job.plan.write_once(path)
    return job if plan == job.plan else IndexJob.open(lm, sae, corpus, settings, plan)


def _write(
    job: IndexJob, shard: Shard, path: Path, provenance: dict[str, Any], started: float, check: Callable[[], None]
) -> None:
    """Write the tables and the file of a build from the aggregates of all of its text."""
    scales = job.plan.scales
    with new_build(path, sort=False) as write:
        added = make_tables(job.lm, job.sae, job.corpus, job.contexts, shard, scales, job.settings, write,
                            read=[Strongest.of(one.firings, one.tokens) for one in job.read],
                            encoder=job.pool.encoders[0], check=check)
        write("meta", meta_table(
            _meta(job.lm, job.sae, job.corpus, job.contexts, job.settings, job.plan.left_out) | {
                "build_id": path.stem, "tokens": int(shard.token_2V.sum()), "seconds": time.time() - started,
                "hist_low": job.plan.hist_low, "hist_edges": list(scales.hist_edges)} | added | provenance))


def _meta(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, contexts: np.ndarray, settings: IndexSettings,
    left_out: LeftOut,
) -> dict[str, Any]:
    """Return the entries of `meta` about the model, the SAE, the text and the settings."""
    config = sae.config
    return {
        "schema_version": SCHEMA_VERSION, "saescope_version": __version__, "sae_id": config["id"],
        "model": config["model"], "site": config["site"], "architecture": config["architecture"],
        "n_latents": sae.n_latents, "d_model": sae.d_model, "k": sae.k, "theta": sae.sparsity.threshold,
        "normalize": config["normalize"], "train_on_bos": config["bos"]["trained_on"],
        "bos_rule": _BOS_RULES[corpus.has_bos]
                    + (f"; left out: {left_out}" if left_out else ""),
        "left_out": left_out.record(),
        "weight_processing": config["weight_processing"], "decoder_norm": "unit",
        "text": corpus.info["text"], "text_fingerprint": corpus.info["fingerprint"], "corpus": corpus.id,
        "contexts": len(contexts), "documents": len(np.unique(corpus.doc[contexts])),
        "context_length": corpus.context_length, "created": time.time(),
        "settings": settings.model_dump(include=set(IndexSettings.model_fields)),
        "bos_token": lm.bos_id if corpus.has_bos else None,
        "bands": [{"band": b, "name": name, "q_low": low, "q_high": high} for b, name, low, high in BANDS],
        "near": NEAR if settings.near_misses else None,
    }
